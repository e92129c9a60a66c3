package gateway

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"time"

	"github.com/google/uuid"

	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

// attempts bounds how often a call is decided anew because something that it
// had read was changed meanwhile.
const attempts = 5

// walk takes a request along the one way there is:
//
//	route → signature → in-flight limit → rate → decode → constraints →
//	look up → authorise → the keys' rates → admit → check → work → record → answer
//
// It returns the answer's body. Whatever goes wrong on the way is recorded
// like a success; if the record cannot be made durable, there is no answer but
// KMSInternalException.
func (c *call) walk(r *http.Request) ([]byte, *kmsapi.Error) {
	defer c.end()
	received := c.receive(r)
	for attempt := 1; ; attempt++ {
		out, err := []byte(nil), received
		if err == nil {
			out, err = c.decide(c.in)
		}
		last := attempt == attempts
		if stale(err) && !last {
			received = c.again(received)
			continue
		}
		if stale(err) || errors.Is(err, metadata.ErrUnknownOutcome) {
			c.disown()
		}
		wire := c.asWire(err)
		recordErr := c.record(wire)
		if stale(recordErr) && !last {
			clear(out)
			received = c.again(received)
			continue
		}
		if stale(recordErr) {
			c.disown()
			wire = kmsapi.Internal()
			recordErr = c.record(wire)
		}
		if recordErr != nil {
			c.gateway.report(c, false, recordErr)
			wire = kmsapi.Internal()
		}
		if wire != nil {
			clear(out)
			out = nil
		}
		return out, wire
	}
}

// end clears what the request brought and gives its place to the next.
func (c *call) end() {
	clear(c.body)
	wipe(c.in)
	clear(c.pair.Private)
	if c.stop != nil {
		c.stop()
	}
	c.gateway.bodies.Add(-c.room)
	c.leave()
}

// disown makes the call's record one that rests on nothing that was read: of a
// call that was changed under too often, or of a change that may hold together
// with a record of its own. Such a call is not decided again.
func (c *call) disown() {
	c.view, c.refusal = nil, nil
	c.event.EventID, c.event.SharedEventID, c.event.RecipientAccount = uuid.NewString(), "", c.caller.Account
	if c.caller.Account != "" {
		c.event.Identity = c.identity
	}
}

// again prepares to decide the call anew: what was read is forgotten, and the
// credentials that signed it must still be good. received is why the request was
// refused before anything was decided, and stays so.
func (c *call) again(received error) error {
	c.view = c.gateway.store.View()
	c.resources, c.uses, c.made, c.refusal, c.unread = nil, nil, "", nil, nil
	c.event.AdditionalEventData, c.event.ResponseElements = nil, nil
	c.event.ErrorCode, c.event.ErrorMessage = "", ""
	c.event.RecipientAccount, c.event.SharedEventID = c.caller.Account, ""
	if received != nil {
		return received
	}
	return c.admitAgain()
}

func (c *call) asWire(err error) *kmsapi.Error {
	if err == nil {
		return nil
	}
	return c.wireError(err)
}

// stale tells whether a call failed because others changed what it had read.
func stale(err error) bool {
	return err != nil && (errors.Is(err, metadata.ErrStale) || errors.Is(err, metadata.ErrState))
}

// receive is the part of the way that does not depend on anything stored but
// the caller's access key.
func (c *call) receive(r *http.Request) error {
	if err := c.route(r); err != nil {
		return err
	}
	if err := c.authenticate(r); err != nil {
		return err
	}
	if !c.enter(c.gateway.inFlight) {
		c.shed = true
		return kmsapi.Throttled()
	}
	unknown := c.name()
	drawnOn := unknownOperations
	if c.op != nil {
		drawnOn = c.op.bucket
	}
	// Whoever is not known yet takes nothing from those who are.
	if c.caller.Account != "" && !c.charge(drawnOn) {
		return kmsapi.Throttled()
	}
	if unknown != nil {
		return unknown
	}
	if c.op.refusal != nil {
		return refused(*c.op.refusal)
	}
	if err := c.decode(); err != nil {
		return err
	}
	if err := c.identify(); err != nil {
		return err
	}
	if err := c.confine(); err != nil {
		return err
	}
	return c.slowDown(c.in)
}

// charge takes one request from a rate of the caller's in the call's region.
func (c *call) charge(drawnOn bucket) bool { return c.chargeIn(c.region, drawnOn) }

// chargeIn takes one request from a rate of the caller's in a region.
func (c *call) chargeIn(region string, drawnOn bucket) bool {
	if c.gateway.throttle.allow(c.now, throttleKey{c.caller.Account, region, drawnOn}) {
		return true
	}
	c.shed = true
	return false
}

// decode reads the request and checks what can be checked without anything stored.
func (c *call) decode() error {
	c.in = c.op.newRequest()
	if err := c.protocol().decode(c, c.in); err != nil {
		return err
	}
	c.noteParameters(c.in)
	if err := kmsapi.Validate(c.in); err != nil {
		return err
	}
	if err := c.refuseMembers(c.in); err != nil {
		return err
	}
	if err := c.checkGrantTokens(c.in); err != nil {
		return err
	}
	if err := c.op.complete(c.in); err != nil {
		return err
	}
	c.noteParameters(c.in) // with the defaults filled in
	return nil
}

// identify finds out who calls from a request that nobody signed, and charges them.
func (c *call) identify() error {
	if !c.op.anonymous {
		return nil
	}
	if err := c.op.identify(c, c.in); err != nil {
		return err
	}
	if !c.charge(c.op.bucket) {
		return kmsapi.Throttled()
	}
	return nil
}

// slowDown gives a request that has a key made which takes long the time for it,
// and a place among such requests, so that they never take those of others.
func (c *call) slowDown(in any) error {
	if c.op.makes == "" || !keyspec.IsSlowToMake(keyspec.Spec(c.op.text(in, c.op.makes))) {
		return nil
	}
	if !c.enterSlow(c.gateway.generating) {
		c.shed = true
		return kmsapi.Throttled()
	}
	c.ctx, c.stop = context.WithTimeout(context.WithoutCancel(c.ctx), c.gateway.generationTimeout)
	// A server that has no deadlines of its own to move is right as it is.
	_ = c.extend(time.Now().Add(c.gateway.generationTimeout + c.gateway.recordTimeout + writeTime))
	return nil
}

// writeTime is the time for an answer to get out, when the work has used up its own.
const writeTime = 10 * time.Second

// decide looks up, authorises and admits, and does the work. It may run more
// than once. A change records itself.
func (c *call) decide(in any) ([]byte, error) {
	if err := c.lookUp(in); err != nil {
		return nil, err
	}
	if err := c.authorise(in); err != nil {
		return nil, err
	}
	if err := c.draw(in); err != nil {
		return nil, err
	}
	if err := c.admit(); err != nil {
		return nil, err
	}
	todo, err := c.op.check(c, in)
	if err != nil {
		return nil, err
	}
	if c.dryRun(in) {
		return nil, kmsapi.DryRunSucceeded()
	}
	if todo.do != nil {
		out, err := todo.do(c.ctx)
		defer wipe(out)
		if err != nil {
			return nil, err
		}
		if todo.commit == nil {
			return c.protocol().encode(c, out)
		}
	}
	body, err := c.change(todo.commit)
	if err == nil && todo.wakes != "" {
		c.gateway.reconciler.Wake(todo.wakes)
	}
	return body, err
}

// change makes a change and its records in one transaction.
func (c *call) change(commit func(context.Context, *metadata.Tx) (any, error)) (body []byte, err error) {
	err = c.gateway.store.Change(c.ctx, c.view, func(tx *metadata.Tx) ([]byte, error) {
		out, err := commit(c.ctx, tx)
		if err != nil {
			return nil, err
		}
		clear(body) // of the try before
		if body, err = c.protocol().encode(c, out); err != nil {
			return nil, err
		}
		records := c.records(nil)
		for _, r := range records[1:] {
			tx.AlsoRecord(r.Event)
		}
		return records[0].Event, nil
	})
	if err != nil {
		clear(body)
		return nil, err
	}
	c.recorded = true
	return body, nil
}

// record makes the call's outcome durable, unless a change did so already.
func (c *call) record(outcome *kmsapi.Error) error {
	if c.recorded {
		return nil
	}
	if c.shed || c.caller.Account == "" && !c.gateway.noise.allow(c.now) {
		c.shed = true
		c.gateway.noise.count(c, outcome)
		return nil
	}
	// Work may have used up its time; the record has time of its own.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), c.gateway.recordTimeout)
	defer cancel()
	return c.gateway.store.Record(ctx, c.view, c.records(outcome)...)
}

// refuseMembers refuses members that are understood and cannot be honoured: a
// restriction of the caller's must not be ignored.
func (c *call) refuseMembers(in any) error {
	for _, m := range unhonoured {
		if _, ok := c.op.fields[m.member]; ok && isGiven(c.op.member(in, m.member)) {
			return m.refuse()
		}
	}
	return nil
}

// isGiven tells whether a member says anything; an empty list does not.
func isGiven(v reflect.Value) bool {
	if v.Kind() == reflect.Slice {
		return v.Len() > 0
	}
	return !v.IsZero()
}

// unhonoured are the members that no operation honours, with their refusals.
var unhonoured = []struct {
	member string
	refuse func() *kmsapi.Error
}{
	{"Recipient", kmsapi.RecipientUnsupported}, // no attestation is verified here
	{"SerialNumber", identity.NoMFA},
	{"TokenCode", identity.NoMFA},
	{"ProvidedContexts", identity.NoContexts},
	{"ProviderId", identity.NoProviderID},
}

// dryRun tells whether the request asks for a dry run.
func (c *call) dryRun(in any) bool {
	if _, ok := c.op.fields["DryRun"]; !ok {
		return false
	}
	flag, _ := c.op.member(in, "DryRun").Interface().(*bool)
	return kmsapi.Or(flag, false)
}
