package identity

import "testing"

func TestPaths(t *testing.T) {
	t.Parallel()
	if got, err := pathOf(nil); got != "/" || err != nil {
		t.Errorf("no path: %q, %v, want /", got, err)
	}
	for _, path := range []string{"/", "/a/", "/service-role/b_c/"} {
		if got, err := pathOf(&path); got != path || err != nil {
			t.Errorf("%q: %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"", "a", "/a", "a/", "//", "/a//b/", "/a b/", "/*/", "/a:b/", "/ä/"} {
		if got, err := pathOf(&path); err == nil {
			t.Errorf("%q is taken as %q", path, got)
		}
	}
}
