package pqtoken

import (
	"io"
	"slices"
	"sync"
)

// firstHandle is larger than any handle of SoftHSM's.
const firstHandle = 1 << 40

// store has the objects of all tokens, and serves clients.
type store struct {
	config Config

	mu      sync.Mutex // guards what follows, and the clients
	objects []*object  // in the order in which they were made
	last    uint64     // handle or unique id that was given out
}

func newStore(c Config) *store { return &store{config: c, last: firstHandle} }

// next is a number that was never given out.
func (s *store) next() uint64 {
	s.last++
	return s.last
}

// client is a process between C_Initialize and C_Finalize. Its handles are its
// own, and mean nothing afterwards.
type client struct {
	store   *store
	handles map[uint64]*object
}

// operations are what a client can ask for; wire.h has the same order.
var operations = []func(c *client, from caller, r *request) ([]byte, error){
	(*client).mechanisms,
	(*client).closeSession,
	(*client).closeSlot,
	(*client).logout,
	(*client).initToken,
	(*client).create,
	(*client).destroy,
	(*client).get,
	(*client).set,
	(*client).find,
	(*client).generate,
	(*client).signInit,
	(*client).sign,
	(*client).verifyInit,
	(*client).verify,
	(*client).encapsulate,
	(*client).decapsulate,
	(*client).wrap,
	(*client).unwrap,
}

// serve answers one client until it hangs up. Its session objects go with it.
func (s *store) serve(conn io.ReadWriter) {
	c := &client{store: s, handles: map[uint64]*object{}}
	defer c.end()
	for {
		message, err := readMessage(conn)
		if err != nil {
			return
		}
		if _, err := conn.Write(withBytes(nil, c.answer(message))); err != nil {
			return
		}
	}
}

// answer does what a message asks for.
func (c *client) answer(message []byte) []byte {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	r := &request{rest: message}
	operation, from := r.ulong(), r.caller()
	if operation >= uint64(len(operations)) {
		return ulongs(uint64(ckrDeviceError))
	}
	results, err := operations[operation](c, from, r)
	if err != nil {
		return ulongs(uint64(codeOf(err)))
	}
	return append(ulongs(uint64(ckrOK)), results...)
}

func (c *client) end() {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.store.drop(func(o *object) bool { return o.owner == c })
}

// drop removes the objects that f is true for.
func (s *store) drop(f func(o *object) bool) { s.objects = slices.DeleteFunc(s.objects, f) }

func (c *client) closeSession(from caller, _ *request) ([]byte, error) {
	c.store.drop(func(o *object) bool { return o.owner == c && o.session == from.session })
	return nil, nil
}

func (c *client) closeSlot(from caller, _ *request) ([]byte, error) {
	c.store.drop(func(o *object) bool { return o.owner == c && o.slot == from.slot })
	return nil, nil
}

// logout destroys private session objects and takes back the handles of private
// token objects (PKCS#11 v3.2, section 5.6, C_Logout).
func (c *client) logout(from caller, _ *request) ([]byte, error) {
	c.store.drop(func(o *object) bool { return o.owner == c && o.slot == from.slot && o.is(ckaPrivate) })
	for h, o := range c.handles {
		if o.slot == from.slot && o.is(ckaPrivate) {
			delete(c.handles, h)
		}
	}
	return nil, nil
}

func (c *client) initToken(from caller, _ *request) ([]byte, error) {
	c.store.drop(func(o *object) bool { return o.slot == from.slot })
	return nil, nil
}

// handle is the object's handle for this client.
func (c *client) handle(o *object) uint64 {
	for h, known := range c.handles {
		if known == o {
			return h
		}
	}
	h := c.store.next()
	c.handles[h] = o
	return h
}

// object is the object that has a handle, if it is there and the caller may see it.
func (c *client) object(from caller, handle uint64) (*object, bool) {
	o, ok := c.handles[handle]
	return o, ok && slices.Contains(c.store.objects, o) && c.sees(from, o)
}

func (c *client) sees(from caller, o *object) bool {
	return o.slot == from.slot && (o.owner == nil || o.owner == c) && (from.isUser() || !o.is(ckaPrivate))
}

// add makes objects part of the token or of the caller's session. Either all
// are added or none.
func (c *client) add(from caller, objects ...*object) (handles []byte, err error) {
	for _, o := range objects {
		switch {
		case o.is(ckaPrivate) && !from.isUser():
			return nil, ckrUserNotLoggedIn
		case o.is(ckaToken) && from.isReadOnly():
			return nil, ckrSessionReadOnly
		}
	}
	for _, o := range objects {
		o.slot, o.attributes[ckaUniqueID] = from.slot, ulongs(c.store.next())
		if !o.is(ckaToken) {
			o.owner, o.session = c, from.session
		}
		c.store.objects = append(c.store.objects, o)
		handles = append(handles, ulongs(c.handle(o))...)
	}
	return handles, nil
}
