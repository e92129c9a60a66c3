package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// sampleKeys is how many materials of a region are opened without -all.
const sampleKeys = 100

// keyPage is how many materials are read from the database at once.
const keyPage = 500

// keys holds the keys of a token's regions against the token.
func (d *doctor) keys(ctx context.Context, t tokenConfig, engine *pkcs11.Engine) error {
	objects := map[string]pkcs11.Resident{} // by CKA_ID
	err := engine.Residents(ctx, hsm.Call{Class: hsm.Background}, func(r pkcs11.Resident) error {
		objects[string(r.ID)] = r
		return nil
	})
	if err != nil {
		return fmt.Errorf("list the objects of token %s: %w", t.Name, err)
	}
	found := len(objects)
	for _, r := range d.config.Regions {
		if r.Token != t.Name {
			continue
		}
		if err := d.regionKeys(ctx, r, engine, objects); err != nil {
			return err
		}
	}
	for _, o := range objects { // those that no row has named
		d.warning("token "+t.Name, fmt.Sprintf("object %q with CKA_ID %x (%s, %s): no key of the configured regions is in it", o.Label, o.ID, o.Class, o.KeyType),
			"it may be left of a CreateKey that was cut off, or belong to another installation; nothing destroys it but you")
	}
	d.fine("token "+t.Name, fmt.Sprintf("%d keys of KMS live in it", found-len(objects)))
	return nil
}

// regionKeys examines the materials of a region. Objects that a row names are
// taken out of objects.
func (d *doctor) regionKeys(ctx context.Context, r regionConfig, engine *pkcs11.Engine, objects map[string]pkcs11.Resident) error {
	named := map[string]bool{}
	opened := 0
	var back []*metadata.KeyMaterial // of Unavailable keys, proved
	lost := map[string]bool{}        // ids of keys of which something is missing
	var place metadata.MaterialPlace
	for {
		page, err := d.store.ListMaterials(ctx, r.Name, place, keyPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			d.enable(ctx, back, lost)
			return nil
		}
		for i := range page {
			k := &page[i]
			place = metadata.MaterialPlace{KeyID: k.Key.ID, MaterialID: k.Material.MaterialID}
			if k.Material.Store != r.Store {
				continue
			}
			d.materials++
			resident := k.Material.Residency == hsm.Resident
			id := string(k.Material.Blob)
			_, there := objects[id]
			there = there || named[id]
			if resident && there {
				named[id] = true
				delete(objects, id)
			}
			if resident && !there {
				d.missing(ctx, k)
				lost[k.Key.ID] = true
				continue
			}
			if opened >= sampleKeys && !d.all && k.Key.State != metadata.Unavailable {
				continue
			}
			opened++
			if d.open(ctx, engine, k) && k.Key.State == metadata.Unavailable {
				back = append(back, k)
			}
		}
		d.progress("region %s: %d key materials examined", r.Name, d.materials)
	}
}

// missing reports a key whose object the token does not have.
func (d *doctor) missing(ctx context.Context, k *metadata.KeyMaterial) {
	found := fmt.Sprintf("its object (CKA_ID %x) is not in the token", k.Material.Blob)
	do := "bring the object back from the HSM's backup, then run: kmsgate doctor -config FILE -repair"
	d.problem(k.Key.ARN(), found, do)
	if d.repair && k.Key.State == metadata.Enabled {
		d.setState(ctx, k, metadata.Enabled, metadata.Unavailable)
	}
}

// open has the token prove a material.
func (d *doctor) open(ctx context.Context, engine *pkcs11.Engine, k *metadata.KeyMaterial) bool {
	d.opened++
	err := engine.Present(ctx, hsm.Call{Account: k.Key.Account, Class: hsm.Background}, &k.Material.Key)
	switch {
	case errors.Is(err, hsm.ErrMissing):
		d.missing(ctx, k)
	case errors.Is(err, hsm.ErrBinding), errors.Is(err, hsm.ErrWrongMaterial):
		d.problem(k.Key.ARN(), err.Error(), "its row is not what the HSM has made: somebody changed the database, or restored it in part; compare with a backup")
	case err != nil:
		d.problem(k.Key.ARN(), err.Error(), "look at the HSM's own log and state")
	}
	return err == nil
}

// enable says which Unavailable keys could be used again, or enables them.
func (d *doctor) enable(ctx context.Context, back []*metadata.KeyMaterial, lost map[string]bool) {
	for _, k := range back {
		switch {
		case lost[k.Key.ID] || !k.Material.Current:
		case d.repair:
			d.setState(ctx, k, metadata.Unavailable, metadata.Enabled)
		default:
			d.problem(k.Key.ARN(), "it is Unavailable, and the token has its material", "run: kmsgate doctor -config FILE -repair")
		}
	}
}

// setState moves a key to another state, with an audit record.
func (d *doctor) setState(ctx context.Context, k *metadata.KeyMaterial, from, to metadata.State) {
	const command = "doctor"
	event := adminEvent(command, "SetKeyState", k.Key.Account, k.Key.Region, time.Now(), audit.Members{
		audit.String("keyId", k.Key.ARN()), audit.String("from", string(from)), audit.String("to", string(to)),
	})
	err := d.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		return event, tx.SetKeyState(ctx, k.Key.Region, k.Key.Account, k.Key.ID, from.Set(), to)
	})
	if err != nil {
		d.problem(k.Key.ARN(), fmt.Sprintf("it could not be made %s: %v", to, err), "run the command again")
		return
	}
	d.add(severityDone, k.Key.ARN(), fmt.Sprintf("made %s; it was %s", to, from), "")
}
