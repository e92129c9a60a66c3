package gateway

// grantOperations are the operations on grants.
var grantOperations = []operation{}
