package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	p11 "github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
)

// token examines a token and the keys of the key stores that it serves.
func (d *doctor) token(ctx context.Context, t configuredToken) error {
	about := "token " + t.Name
	d.progress("%s: opening", about)
	engine, err := d.openAlone(ctx, t)
	if err != nil {
		do := "check that the HSM is reachable, and the token's label or serial in the configuration"
		if errors.Is(err, hsm.ErrPIN) {
			do = "correct the PIN file, then run: kmsgate hsm login -config FILE"
		}
		d.problem(about, err.Error(), do)
		return nil
	}
	d.fine(about, fmt.Sprintf("serial %s, in service; it can make keys of %s", printable(engine.Stats().Serial),
		counted(madeKinds(engine.Profile()), "spec and usage", "specs and usages")))
	if d.config.TLS.Token == t.Name {
		d.certificateKey(ctx)
	}
	wrong, err := d.attributes(ctx, t)
	if err != nil {
		return err
	}
	usable := map[string]bool{}
	for _, store := range d.config.storesOf(t.Name) {
		usable[store] = d.serviceKeys(ctx, engine, store, wrong)
	}
	if err := engine.Check(ctx); err != nil {
		d.problem(about, err.Error(), "look at the HSM's own log and state")
		return nil
	}
	return d.keys(ctx, t, engine, usable)
}

// openAlone opens a token without its service keys, so that one that is lost does
// not hide what else is wrong.
func (d *doctor) openAlone(ctx context.Context, t configuredToken) (*pkcs11.Engine, error) {
	if err := t.module.setEnvironment(); err != nil {
		return nil, err
	}
	c := engineConfigOf(t.module, t.tokenConfig)
	c.Marks, c.Logger, c.GenerateTimeout = d.store, d.logger, d.config.generationTimeout()
	engine, err := d.module(t.module).Open(ctx, c)
	if err == nil {
		d.engines, d.byToken[t.Name], d.opened[t.Name] = append(d.engines, engine), engine, engine
	}
	return engine, err
}

// madeKinds counts the specs and usages that a token makes keys of.
func madeKinds(p pkcs11.Profile) (n int) {
	for _, k := range p.Keys {
		if k.Residency != pkcs11.Nowhere {
			n++
		}
	}
	return n
}

// certificateKey examines that the token has the key of the API's certificate.
func (d *doctor) certificateKey(ctx context.Context) {
	if _, err := d.certificate(ctx); err != nil {
		d.problem("TLS key", err.Error(), "correct tls.key_id in the configuration, or make another key: kmsgate hsm tls-key")
		return
	}
	d.fine("TLS key", fmt.Sprintf("it is in token %s, and the certificate is its own", d.config.TLS.Token))
}

// attributes reads the attributes of the objects that the gateway has for itself,
// and reports those that are not as they must be, by CKA_ID in hexadecimal. It reads
// on the module that the engine has initialised and logged in to.
func (d *doctor) attributes(ctx context.Context, t configuredToken) (wrong map[string]bool, err error) {
	known, err := d.knownObjects(ctx, t)
	if err != nil {
		return nil, err
	}
	beside := p11.New(t.module.Path)
	if beside == nil {
		return nil, fmt.Errorf("%s cannot be opened a second time", t.module.Path)
	}
	defer beside.Destroy()
	var found inspectedToken
	slot, err := found.findSlot(beside, t)
	if err != nil {
		return nil, err
	}
	session, err := beside.OpenSession(slot, p11.CKF_SERIAL_SESSION)
	if err != nil {
		return nil, fmt.Errorf("C_OpenSession: %w", err)
	}
	defer beside.CloseSession(session) //nolint:errcheck // it was only read from
	r := &miekgReader{beside, session}
	for id := range known.services {
		found.Objects, err = r.appendObjects(found.Objects, p11.CKO_SECRET_KEY, id)
		if err != nil {
			return nil, err
		}
	}
	if known.tlsKey != "" {
		if found.Objects, err = r.appendObjects(found.Objects, p11.CKO_PRIVATE_KEY, known.tlsKey); err != nil {
			return nil, err
		}
	}
	known.judge(&found)
	wrong = map[string]bool{}
	for _, o := range found.Objects {
		for _, text := range o.Problems {
			wrong[o.ID] = true
			d.problem("token "+t.Name, fmt.Sprintf("%s (CKA_ID %s): %s", o.Is, o.ID, text),
				"find out who has changed or replaced it; kmsgate hsm inspect -config FILE shows it with all attributes")
		}
	}
	return wrong, nil
}

// appendObjects reads the objects of a class with a CKA_ID in hexadecimal.
func (r *miekgReader) appendObjects(objects []inspectedObject, class uint, id string) ([]inspectedObject, error) {
	raw, err := hex.DecodeString(id)
	if err != nil {
		return nil, err
	}
	err = r.ctx.FindObjectsInit(r.session, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_ID, raw),
	})
	if err != nil {
		return nil, fmt.Errorf("C_FindObjectsInit: %w", err)
	}
	handles, _, err := r.ctx.FindObjects(r.session, findAtOnce)
	if err := errors.Join(err, r.ctx.FindObjectsFinal(r.session)); err != nil {
		return nil, fmt.Errorf("C_FindObjects: %w", err)
	}
	for _, h := range handles {
		objects = append(objects, readObject(nameOf(classNames, class), "", readByMiekg, func(attribute uint) ([]byte, error) {
			return r.attribute(h, attribute)
		}))
	}
	return objects, nil
}

// serviceKeys puts a key store's service keys in service, each by itself, and tells
// whether all are there and prove themselves. Those whose attributes are wrong have
// been reported.
func (d *doctor) serviceKeys(ctx context.Context, engine *pkcs11.Engine, store string, wrong map[string]bool) bool {
	about := "key store " + store
	rows, err := d.store.ServiceKeys(ctx, store)
	if err != nil {
		d.unfinished(about, err)
		return false
	}
	good := d.serviceKeyRows(about, rows)
	d.outdated(ctx, about, store, rows)
	serial := engine.Stats().Serial
	proved := 0
	for _, k := range rows {
		if k.State == metadata.ServiceKeyActive && d.config.isShared(store) && !slices.Contains(k.Tokens, serial) {
			good = false
			d.problem(about, fmt.Sprintf("token with serial %s does not have the %s", printable(serial), describeServiceKey(k)),
				"run: kmsgate hsm create-service-keys -config FILE -store "+store)
		}
	}
	for _, k := range d.config.rowsIn(rows, store, serial) {
		if err := engine.LoadServiceKeys(ctx, []hsm.ServiceKey{k.ServiceKey}); err != nil {
			good = false
			if !wrong[hex.EncodeToString(k.ID)] {
				d.problem(about, err.Error(), "bring the key back from the HSM's backup: what was made with it cannot be used without it")
			}
			continue
		}
		proved++
	}
	if good {
		d.fine(about, counted(proved, "service key is in the token and proves itself", "service keys are in the token and prove themselves"))
	}
	return good
}

// serviceKeyRows examines what the database says of a key store's service keys.
func (d *doctor) serviceKeyRows(about string, rows []metadata.ServiceKey) bool {
	const (
		do     = "run: kmsgate init -config FILE -account ACCOUNT"
		rotate = "run: kmsgate hsm rotate-domain-key -config FILE"
	)
	active := map[hsm.ServiceKeyKind]bool{}
	for _, k := range rows {
		active[k.Kind] = active[k.Kind] || k.State == metadata.ServiceKeyActive
		switch {
		case k.State == metadata.ServiceKeyCreating && k.Generation == 1:
			d.warning(about, fmt.Sprintf("its %s key, generation 1, was being made when a run was cut off", k.Kind), do)
		case k.State == metadata.ServiceKeyCreating:
			d.warning(about, fmt.Sprintf("its %s key, generation %d, was being made when a run was cut off", k.Kind, k.Generation), rotate)
		case k.State == metadata.ServiceKeyDestroying:
			d.warning(about, fmt.Sprintf("its %s key, generation %d, is being destroyed, and nobody has seen the end of it", k.Kind, k.Generation),
				"if no run is on its way, run kmsgate hsm destroy-domain-key again")
		}
	}
	good := true
	for _, kind := range hsm.ServiceKeyKinds {
		if !active[kind] {
			good = false
			d.problem(about, fmt.Sprintf("it has no %s key", kind), do)
		}
	}
	return good
}

// outdated counts what is not under the newest generation of service keys.
func (d *doctor) outdated(ctx context.Context, about, store string, rows []metadata.ServiceKey) {
	newest := newestGeneration(rows)
	if newest < 2 {
		return
	}
	n, err := d.store.CountBound(ctx, store, newest-1)
	switch {
	case err != nil:
		d.unfinished(about, err)
	case n > 0:
		d.warning(about, counted(int(n), "row is", "rows are")+" not under the newest generation of the domain key",
			"run: kmsgate hsm rotate-domain-key -config FILE")
	}
}
