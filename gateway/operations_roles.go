package gateway

// roleOperations are IAM's operations on roles, managed policies and OIDC providers.
var roleOperations = []operation{}
