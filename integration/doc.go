// Package integration holds the tests that see kmsgate from outside: the AWS SDK
// and the AWS CLI against a running gateway, kill and restart, and the rules of
// the house (which package may import what, how long a function may be) that no
// single package can hold by itself. It has no code of its own and nothing
// imports it.
package integration
