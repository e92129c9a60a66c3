package gateway

// userOperations are IAM's operations on users, groups and access keys.
var userOperations = []operation{}
