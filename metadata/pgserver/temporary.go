package pgserver

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// makeTemporary makes a locked directory for a temporary cluster, and removes
// those of processes that have ended without Stop. The caller holds the lock as
// long as it uses the directory.
func makeTemporary(b binaries) (site, *os.File, error) {
	// No data are there yet; owner decides only between us and another user.
	who, err := findOwner("")
	if err != nil {
		return site{}, nil, err
	}
	prefix := "kmsgate-postgres-" + strconv.Itoa(os.Geteuid()) + "-"
	for _, base := range []string{os.TempDir(), "/tmp"} {
		if !who.reaches(base, b) {
			continue
		}
		sweep(base, prefix)
		home, lock, err := makeLocked(base, prefix)
		return site{home: home, owner: who}, lock, err
	}
	return site{}, nil, fmt.Errorf("user %s can enter neither TMPDIR nor /tmp", who.name)
}

// makeLocked makes a directory that appears under its name only when it is locked
// already, so that no sweep ever finds it without its user.
func makeLocked(base, prefix string) (string, *os.File, error) {
	pending, err := os.MkdirTemp(base, "kmsgate-new-")
	if err != nil {
		return "", nil, err
	}
	lock, err := lockDir(pending)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(pending))
	}
	home := filepath.Join(base, prefix+rand.Text()[:12])
	err = errors.Join(os.Chmod(pending, 0o711), os.Rename(pending, home))
	if err != nil {
		return "", nil, errors.Join(err, lock.Close(), os.RemoveAll(pending))
	}
	home, err = filepath.EvalSymlinks(home)
	return home, lock, err
}

// sweep removes temporary clusters whose processes are gone. It is a courtesy:
// what cannot be removed now is left to the next sweep.
func sweep(base, prefix string) {
	found, err := filepath.Glob(filepath.Join(escapeGlob(base), prefix+"*"))
	if err != nil {
		return
	}
	for _, home := range found {
		if fi, err := os.Lstat(home); err != nil || !fi.IsDir() || !ownedByUs(fi) {
			continue
		}
		_ = sweepOne(home) // see above
	}
}

// ownedByUs reports whether a file belongs to the user of this process.
func ownedByUs(fi os.FileInfo) bool {
	uid, _ := ownerOf(fi)
	return uid == os.Geteuid()
}

// sweepOne removes a temporary cluster unless a process holds it or its server
// has not ended yet.
func sweepOne(home string) error {
	lock, err := os.OpenFile(filepath.Join(home, lockName), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s := &Server{site: site{home: home}}
	err = tryLock(lock)
	if err == nil && s.leftBehind() == nil {
		for _, dir := range s.socketDirs() {
			_ = os.Remove(dir) // at most one of them is there
		}
		err = os.RemoveAll(home)
	}
	return errors.Join(err, lock.Close())
}
