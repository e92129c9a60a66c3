package pgserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	// port names the socket's file; nothing listens on TCP.
	port = "5432"

	// maxSocketPath is the length of the longest socket path, in bytes: sun_path
	// of unix(7) has 108 with its final zero (104 on BSD and macOS).
	maxSocketPath = 103

	// helloTimeout bounds one attempt to talk to the server.
	helloTimeout = 5 * time.Second
)

// socketPath returns the path of the server's socket in a directory.
func socketPath(dir string) string { return filepath.Join(dir, ".s.PGSQL."+port) }

// makeSocketDir makes the directory of the socket, which has a short path however
// long that of the cluster is, and which only the owner (and root) may enter. A
// temporary cluster has it inside, if that is short enough, to be swept with it.
func (s *Server) makeSocketDir() (string, error) {
	places := s.socketDirs()
	if s.temporary {
		places = append([]string{filepath.Join(s.home, "socket")}, places...)
	}
	for _, dir := range places {
		if len(socketPath(dir)) > maxSocketPath || !s.owner.reaches(filepath.Dir(dir), binaries{dir: s.bin}) {
			continue
		}
		if err := makePrivate(dir, s.owner); err != nil {
			return "", err
		}
		return dir, nil
	}
	return "", errors.New("no directory for the socket: neither TMPDIR nor /tmp will do")
}

// socketDirs returns where the directory of the socket may be, best first. Not
// under XDG_RUNTIME_DIR, which goes when the user logs out.
func (s *Server) socketDirs() []string {
	name := "kmsgate-" + shortHash(s.data())
	return []string{filepath.Join(os.TempDir(), name), filepath.Join("/tmp", name)}
}

// makePrivate makes a directory that belongs to o alone. One that is there already
// is used only if it is exactly that: its name can be guessed, and whoever owns it
// could put a server of his own there.
func makePrivate(dir string, o owner) error {
	err := os.Mkdir(dir, 0o700)
	if err == nil && o.switches {
		return os.Lchown(dir, o.uid, o.gid)
	}
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	uid, _ := ownerOf(fi)
	unfinished := uid == 0 && o.switches // root was cut off before it gave it away
	if !fi.IsDir() || fi.Mode().Perm() != 0o700 || uid != o.uid && !unfinished {
		return fmt.Errorf("%s is there already and is not a directory that user %s alone may enter (%s, user id %d): remove it",
			dir, o.name, fi.Mode(), uid)
	}
	if unfinished {
		return os.Lchown(dir, o.uid, o.gid)
	}
	return nil
}

// hello asks the server for a connection as a client does and hangs up at once;
// nil means that it serves.
// PostgreSQL 15 manual, 55.2.1 Start-up and 55.7 Message Formats.
func hello(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socketPath(dir))
	if err != nil {
		return err
	}
	hangUp := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends a read that waits for ever
	answer, err := exchange(conn)
	if hangUp() {
		err = errors.Join(err, conn.Close())
	}
	if err == nil && answer != 'R' {
		err = fmt.Errorf("not ready (answer %q)", answer)
	}
	if err != nil {
		return fmt.Errorf("connect to %s: %w", socketPath(dir), err)
	}
	return nil
}

// exchange sends a StartupMessage and returns the type of the first message that
// comes back: 'R' (authentication) from a server that serves, 'E' from one that is
// starting or stopping.
func exchange(conn net.Conn) (byte, error) {
	const protocol = 3 << 16
	body := binary.BigEndian.AppendUint32(nil, protocol)
	body = append(body, "user\x00"+superuser+"\x00database\x00postgres\x00\x00"...)
	message := append(binary.BigEndian.AppendUint32(nil, uint32(4+len(body))), body...)
	if _, err := conn.Write(message); err != nil {
		return 0, err
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return 0, err
	}
	terminate := []byte{'X', 0, 0, 0, 4}
	_, err := conn.Write(terminate)
	return answer[0], err
}
