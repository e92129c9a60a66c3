package pgserver

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	// elsewhere is where a cluster of root lies when Postgres's user cannot enter
	// the directory that was asked for.
	elsewhere = "/var/lib/kmsgate"

	// locationName is the file in the directory that was asked for that says where
	// the cluster lies instead. The name there is not made from the path alone: a
	// directory that was removed and made again gets a new cluster.
	locationName = "location"
)

// site is the place of a cluster and the user it belongs to.
type site struct {
	home  string // absolute; holds data, postgres.log, lock
	owner owner
}

// data returns the data directory.
func (s site) data() string { return filepath.Join(s.home, "data") }

// owner is the operating-system user that Postgres runs as.
type owner struct {
	uid, gid int
	name     string
	switches bool // this process is root and becomes that user
}

// attributes returns how a process of Postgres is started: in a session of its
// own, as the owner.
func (o owner) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if o.switches {
		attr.Credential = &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.gid)}
	}
	return attr
}

// command prepares one of the installed programs to run as the owner in dir,
// with an environment that holds nothing of ours.
func (o owner) command(cmd *exec.Cmd, dir string) *exec.Cmd {
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC", "HOME=" + dir}
	cmd.SysProcAttr = o.attributes()
	return cmd
}

// reaches reports whether the owner can enter a directory, by doing so.
func (o owner) reaches(dir string, b binaries) bool {
	if !o.switches {
		return true
	}
	return o.command(exec.Command(filepath.Join(b.dir, "initdb"), "--version"), dir).Run() == nil
}

// makeDir makes the directory of a cluster and returns its real absolute path.
func makeDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711 // Postgres's user passes through
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

// settle finds where the cluster for dir lies. The note is not empty when that is
// not dir itself. The caller holds the lock of dir.
func settle(dir string, b binaries) (found site, note string, err error) {
	home := dir
	location, err := os.ReadFile(filepath.Join(dir, locationName))
	switch {
	case err == nil:
		home = strings.TrimSpace(string(location))
		if err := os.MkdirAll(home, 0o711); err != nil {
			return site{}, "", err
		}
	case !errors.Is(err, os.ErrNotExist):
		return site{}, "", err
	}
	found = site{home: home}
	if found.owner, err = findOwner(found.data()); err != nil {
		return site{}, "", err
	}
	if !found.owner.reaches(home, b) {
		if _, err := os.Lstat(found.data()); err == nil || home != dir {
			return site{}, "", fmt.Errorf("user %s, who owns %s, cannot enter %s", found.owner.name, found.data(), home)
		}
		if found.home, err = moveElsewhere(dir); err != nil {
			return site{}, "", err
		}
	}
	if found.home != dir {
		note = fmt.Sprintf("The Postgres cluster for %s lies in %s: user %s, who runs it, cannot enter %s.",
			dir, found.home, found.owner.name, dir)
	}
	return found, note, nil
}

// moveElsewhere makes a place for the cluster of dir under elsewhere and writes
// it down in dir.
func moveElsewhere(dir string) (string, error) {
	home := filepath.Join(elsewhere, shortHash(dir+"\n"+rand.Text()))
	if err := os.MkdirAll(elsewhere, 0o755); err != nil {
		return "", err
	}
	if err := os.Mkdir(home, 0o711); err != nil {
		return "", err
	}
	pending := filepath.Join(dir, locationName+".new")
	if err := os.WriteFile(pending, []byte(home+"\n"), 0o644); err != nil {
		return "", err
	}
	return home, os.Rename(pending, filepath.Join(dir, locationName))
}

// shortHash returns twelve hexadecimal digits of the hash of a text.
func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6])
}

// findOwner returns who runs Postgres: whoever owns the data already, else this
// process's own user, or for root an unprivileged one.
func findOwner(data string) (owner, error) {
	self := os.Geteuid()
	found := owner{uid: self, gid: os.Getegid()}
	fi, err := os.Lstat(data)
	switch {
	case err == nil:
		found.uid, found.gid = ownerOf(fi)
	case !errors.Is(err, os.ErrNotExist):
		return owner{}, err
	case self == 0:
		return lookUpOwner("postgres", "nobody")
	}
	if found.uid == 0 || self != 0 && found.uid != self {
		return owner{}, fmt.Errorf("%s belongs to user id %d, and Postgres would have to run as the user who owns it", data, found.uid)
	}
	found.switches = self == 0
	found.name = strconv.Itoa(found.uid)
	if u, err := user.LookupId(found.name); err == nil {
		found.name = u.Username
	}
	return found, nil
}

// lookUpOwner returns the first of the users that exists, for root to become.
func lookUpOwner(names ...string) (owner, error) {
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return owner{}, fmt.Errorf("user %s: %w", name, err)
		}
		return owner{uid: uid, gid: gid, name: name, switches: true}, nil
	}
	return owner{}, fmt.Errorf("none of the users %s exists, and Postgres refuses to run as root", strings.Join(names, ", "))
}

// ownerOf returns the user and group id of a file.
func ownerOf(fi os.FileInfo) (uid, gid int) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return -1, -1
	}
	return int(st.Uid), int(st.Gid)
}
