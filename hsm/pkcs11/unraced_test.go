//go:build !race

package pkcs11

// raced says that the race detector watches.
const raced = false
