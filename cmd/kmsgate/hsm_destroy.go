package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

const hsmDestroyUsage = `Destroys a generation of a key store's domain and binding key in its token. What is
under it cannot be opened any more, by anybody: EVERY OLDER BACKUP OF THE DATABASE
BECOMES UNREADABLE, and the keys that were deleted before the last rotation are gone
for good, in old backups too. Nothing brings it back but a backup of the HSM itself.

It is refused unless no row names this generation or an older one, and unless a backup
that was made after the rotation is restored in a database of its own at -backup and
proves itself: it is of this installation, has the service keys that are in the token
now, names no such generation, and every blob in it opens in the HSM. So does every
blob of the database in use: as long as the generation is there, an older backup
could still make up for one that does not. Without -yes it
does all that, says what it would destroy, and ends with exit code 1. Cut off, it goes
on when it is run again.`

func runHSMDestroyDomainKey(ctx context.Context, p *program, args []string) error {
	set := p.flags("hsm destroy-domain-key -config FILE [-store ID] -generation N -backup URL [-workers N] -yes", hsmDestroyUsage)
	path := set.String("config", "", "configuration `file` (required)")
	store := set.String("store", "", "`id` of the key store; may be left out where there is one")
	generation := set.Int("generation", 0, "`number` of the generation to be destroyed (required)")
	backup := set.String("backup", "", "`URL` of the Postgres database that a backup was restored in (required)")
	workers := set.Int("workers", 4, "`number` of batches that are proved at once; fewer leave more of the HSM to the gateway")
	yes := set.Bool("yes", false, "destroy it; without it nothing is destroyed")
	if err := p.parse(set, args); err != nil {
		return err
	}
	switch {
	case *generation > math.MaxInt32:
		return usagef("-generation is %d: there is none so high; kmsgate hsm inspect shows them", *generation)
	case *generation < 1:
		return usagef("-generation is missing: the number of the generation to be destroyed; kmsgate hsm inspect shows them")
	case *backup == "":
		return usagef("-backup is missing: the URL of a database that a backup was restored in; it is read to see that nothing is lost")
	case *workers < 1 || *workers > maxWorkers:
		return usagef("-workers is %d: use 1 to %d", *workers, maxWorkers)
	}
	return p.withWorkers(ctx, destroyCommand, *path, *workers, func(i *installation) error {
		r, err := i.config.storeNamed(*store)
		if err != nil {
			return err
		}
		d := &destruction{installation: i, p: p, region: r, generation: int32(*generation), workers: *workers}
		return i.store.Exclusively(ctx, "rows of "+r.Store, func(ctx context.Context) error {
			return d.run(ctx, *backup, *yes)
		})
	})
}

const destroyCommand = "hsm destroy-domain-key"

// destruction is the end of one generation of a key store's domain and binding key.
type destruction struct {
	*installation
	p          *program
	region     regionConfig
	generation int32
	workers    int

	rows   []metadata.ServiceKey // all of the store
	doomed []metadata.ServiceKey // those to be destroyed
	proved int64                 // rows of the backup
	live   int64                 // rows of the database that were proved
}

// run refuses or destroys.
func (d *destruction) run(ctx context.Context, backup string, yes bool) error {
	if err := d.find(ctx); err != nil {
		return err
	}
	if d.doomed[0].State == metadata.ServiceKeyDestroyed {
		fmt.Fprintf(d.p.stdout, "Generation %d of key store %s is destroyed already.\n", d.generation, d.region.Store)
		return nil
	}
	live, err := d.store.CountBound(ctx, d.region.Store, d.generation)
	if err != nil {
		return err
	}
	if live > 0 {
		return d.errInUse(live)
	}
	if d.proved, err = d.proveBackup(ctx, backup); err != nil {
		return fmt.Errorf("nothing was destroyed: %w", err)
	}
	newest := newestGeneration(d.rows)
	if d.live, err = d.proveRows(ctx, d.store, "database", newest); err != nil {
		return fmt.Errorf("nothing was destroyed: %w", err)
	}
	d.announce()
	if !yes {
		return errors.New("nothing was destroyed: run it again with -yes to do it")
	}
	return d.destroy(ctx)
}

func (d *destruction) errInUse(rows int64) error {
	return fmt.Errorf("nothing was destroyed: %s the generation %d or an older one; run: kmsgate hsm rotate-domain-key -config FILE -store %s",
		counted(int(rows), "row of the database names", "rows of the database name"), d.generation, d.region.Store)
}

// find finds the keys to be destroyed.
func (d *destruction) find(ctx context.Context) (err error) {
	if d.rows, err = d.store.ServiceKeys(ctx, d.region.Store); err != nil {
		return err
	}
	for _, k := range d.rows {
		if k.Generation == d.generation && slices.Contains(rotatedKinds, k.Kind) {
			d.doomed = append(d.doomed, k)
		}
	}
	newest := newestGeneration(d.rows)
	switch {
	case len(d.doomed) != len(rotatedKinds):
		return fmt.Errorf("key store %s has no generation %d of its domain key; the newest is %d", d.region.Store, d.generation, newest)
	case d.generation >= newest:
		return fmt.Errorf("generation %d is the newest of key store %s, and its keys are under it; to destroy it, first run: kmsgate hsm rotate-domain-key", d.generation, d.region.Store)
	}
	return nil
}

// announce says what is about to be destroyed.
func (d *destruction) announce() {
	w := d.p.stdout
	fmt.Fprintf(w, "The backup is whole: %s in the HSM, and none needs generation %d.\n", counted(int(d.proved), "row opens", "rows open"), d.generation)
	fmt.Fprintf(w, "So is the database in use: %s.\n\n", counted(int(d.live), "row opens", "rows open"))
	fmt.Fprintf(w, "To be destroyed in the token of key store %s, for good:\n", d.region.Store)
	for _, k := range d.doomed {
		fmt.Fprintf(w, "    %s key, generation %d, CKA_ID %x, made %s\n", k.Kind, k.Generation, k.ID, k.CreatedAt.Format(time.RFC3339))
	}
	fmt.Fprint(w, "\nEVERY OLDER BACKUP OF THE DATABASE BECOMES UNREADABLE WITH IT, and with them every key that was\n"+
		"deleted before. Backups of the HSM have the keys still: destroy those that are older, too.\n\n")
}

// proveBackup proves that the backup has all that is needed to do without the
// generation, and returns how many rows it has.
func (d *destruction) proveBackup(ctx context.Context, url string) (proved int64, err error) {
	backup, err := metadata.OpenBackup(ctx, url)
	if err != nil {
		return 0, err
	}
	defer backup.Close()
	live, err := backup.IsLive(ctx, d.store)
	if err != nil {
		return 0, err
	}
	if live {
		return 0, errors.New("the database at -backup is the one in use: restore a backup into another database, and name that one")
	}
	rows, err := backup.ServiceKeys(ctx, d.region.Store)
	if err != nil {
		return 0, err
	}
	if err := d.sameServiceKeys(rows); err != nil {
		return 0, err
	}
	older, err := backup.CountBound(ctx, d.region.Store, d.generation)
	if err != nil {
		return 0, err
	}
	if older > 0 {
		return 0, fmt.Errorf("in the backup %s generation %d or an older one: it was made before all keys were moved; make another one now, and restore it",
			counted(int(older), "row names", "rows name"), d.generation)
	}
	return d.proveWhole(ctx, backup)
}

// sameServiceKeys refuses a backup that does not have the service keys that must be in
// the token after the destruction, which no other installation has.
func (d *destruction) sameServiceKeys(backup []metadata.ServiceKey) error {
	for _, k := range d.rows {
		if !k.InToken() || k.Generation == d.generation && slices.Contains(rotatedKinds, k.Kind) {
			continue
		}
		n := slices.IndexFunc(backup, func(b metadata.ServiceKey) bool { return b.Kind == k.Kind && b.Generation == k.Generation })
		switch {
		case n < 0:
			return fmt.Errorf("the backup does not know the %s: it is of another installation, or was made before the rotation", describeServiceKey(k))
		case !slices.Equal(backup[n].ID, k.ID) || !slices.Equal(backup[n].CheckValue, k.CheckValue):
			return fmt.Errorf("in the backup the %s is another key: it is of another installation", describeServiceKey(k))
		}
	}
	return nil
}

// proveWhole has the token open every row of the backup, which nobody writes to.
func (d *destruction) proveWhole(ctx context.Context, backup *metadata.Backup) (int64, error) {
	newest := newestGeneration(d.rows)
	total, err := backup.CountBound(ctx, d.region.Store, newest)
	if err != nil {
		return 0, err
	}
	now, err := d.store.CountBound(ctx, d.region.Store, newest)
	if err != nil {
		return 0, err
	}
	if total == 0 && now > 0 {
		return 0, fmt.Errorf("the backup has no keys of key store %s, and the database has %d: it is not whole", d.region.Store, now)
	}
	fmt.Fprintf(d.p.stdout, "The backup has %d rows of key store %s; the database has %d.\n", total, d.region.Store, now)
	proved, err := d.proveRows(ctx, backup, "backup", newest)
	if err == nil && proved != total {
		err = fmt.Errorf("%d rows of the backup were proved, and it has %d: somebody writes to it", proved, total)
	}
	return proved, err
}

// provable is a database whose rows can be counted and proved.
type provable interface {
	boundLister
	CountBound(ctx context.Context, store string, upTo int32) (int64, error)
}

// proveRows has the token open every row of a database up to a generation, and returns
// how many there are.
func (d *destruction) proveRows(ctx context.Context, rows provable, where string, upTo int32) (int64, error) {
	total, err := rows.CountBound(ctx, d.region.Store, upTo)
	if err != nil {
		return 0, err
	}
	faults := faultList{out: d.p.stderr}
	progress := newProgress(d.p.stderr, "proved of the "+where, total)
	var proved atomic.Int64
	err = eachBound(ctx, rows, d.region.Store, upTo, d.workers, func(ctx context.Context, _ metadata.BoundKind, rows []metadata.Bound) error {
		for chunk := range slices.Chunk(rows, pkcs11.MaxBatch) {
			outcomes, err := patiently(ctx, func() ([]pkcs11.Batched, error) {
				return d.byStore[d.region.Store].ProveAll(ctx, background, hsmKeys(chunk))
			})
			if err != nil {
				return err
			}
			for n, o := range outcomes {
				if o.Err != nil {
					faults.add(&chunk[n], o.Err)
					continue
				}
				proved.Add(1)
			}
		}
		progress.add(int64(len(rows)))
		return nil
	})
	progress.finish()
	switch {
	case err != nil:
		return 0, err
	case faults.count() > 0:
		return 0, fmt.Errorf("%s in the %s: damaged or changed, or without its object in the token; run it again if that was deleted just now",
			counted(faults.count(), "row does not open", "rows do not open"), where)
	}
	return proved.Load(), nil
}

// destroy takes the generation out of use, waits until no instance has it in service,
// and destroys its objects. An object that is not there is destroyed already.
func (d *destruction) destroy(ctx context.Context) error {
	keys := make([]hsm.ServiceKey, 0, len(d.doomed))
	for _, k := range d.doomed {
		keys = append(keys, k.ServiceKey)
	}
	now := time.Now()
	err := d.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		err := tx.BeginDestroying(ctx, d.region.Store, d.generation)
		return generationEvent(destroyCommand, "BeginDestroyingDomainKey", d.region, d.generation, now,
			serviceKeyIDs(keys), audit.Int("rowsProvedInBackup", d.proved), audit.Int("rowsProved", d.live)), err
	})
	if errors.Is(err, metadata.ErrInUse) {
		return d.errInUse(1)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(d.p.stderr, "Generation %d is out of use; its objects go when every instance knows that.\n", d.generation)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settleTime):
	}
	if err := d.byStore[d.region.Store].DestroyServiceKeys(ctx, keys); err != nil {
		return fmt.Errorf("generation %d is out of use, and may not be destroyed yet: %w; run the command again", d.generation, err)
	}
	now = time.Now()
	err = d.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		err := tx.FinishDestroying(ctx, d.region.Store, d.generation)
		return generationEvent(destroyCommand, "DestroyDomainKey", d.region, d.generation, now,
			serviceKeyIDs(keys), audit.String("serialNumber", d.byStore[d.region.Store].Stats().Serial)), err
	})
	if err != nil {
		return fmt.Errorf("the objects of generation %d are destroyed, and that is not recorded yet: %w; run the command again", d.generation, err)
	}
	fmt.Fprintf(d.p.stdout, "Generation %d of domain and binding key of key store %s is destroyed.\n", d.generation, d.region.Store)
	return nil
}
