package pkcs11

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// prober looks closer at a token than the engine does when it opens it.
type prober struct {
	*session
	profile  Profile
	sessions int // to be opened at once
}

// Probe is the profile with all that takes longer than a start may: what the
// library and the token say of themselves, ways for keys to get in, which
// promises of attributes are kept, what a search costs, and whether so many
// sessions can be open at once. It uses objects of its own, which end with its
// session.
func (e *Engine) Probe(ctx context.Context, sessions int) (Profile, error) {
	found := make(chan Profile, 1)
	w := work{mechanism: "probe", slow: true, run: func(s *session, _ handle, _ [3][]byte) (_ []byte, err error) {
		h, err := e.module.openSession(e.slot)
		if err != nil {
			return nil, err
		}
		defer func() {
			if e := e.module.closeSession(h); err == nil {
				err = e
			}
		}()
		p := &prober{session: &session{engine: e, handle: h, epoch: s.epoch}, profile: e.Profile(), sessions: sessions}
		if err := p.probe(); err != nil {
			return nil, err
		}
		found <- p.profile
		return nil, nil
	}}
	if _, err := e.do(ctx, hsm.Call{Class: hsm.Background}, nil, &w); err != nil {
		return Profile{}, err
	}
	return <-found, nil
}

func (p *prober) probe() error {
	for _, step := range []func() error{p.identity, p.mechanisms, p.emptyIV, p.imports, p.enforcement, p.searches, p.ceiling} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// Describe is what the library and the token say of themselves, without a login:
// all that can be said of a token that [Open] refuses. It initialises and
// finalises the module, so no engine may use it in this process.
func Describe(cfg Config) (profile Profile, err error) {
	if err := cfg.normalize(); err != nil {
		return Profile{}, err
	}
	e := &Engine{cfg: cfg, module: NewModule(cfg.Module, cfg.InitArguments)}
	p := &prober{session: &session{engine: e}}
	err = e.module.alone(func() error {
		if _, err := e.findToken(); err != nil {
			return err
		}
		if err := p.identity(); err != nil {
			return err
		}
		return p.mechanisms()
	})
	return p.profile, answer(err)
}

func version(v pkcs11.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// identity is what the library and the token say of themselves.
func (p *prober) identity() error {
	m := p.engine.module
	library, err := m.ctx.GetInfo()
	if err != nil {
		return managed("C_GetInfo", err)
	}
	p.profile.Library = LibraryProfile{
		Path: p.engine.cfg.Module, Manufacturer: library.ManufacturerID, Description: library.LibraryDescription,
		Version: version(library.LibraryVersion), Cryptoki: version(library.CryptokiVersion), Interface32: m.lib.functions32 != nil,
	}
	token, err := m.tokenInfo(p.engine.slot)
	p.profile.Token = TokenProfile{
		Label: token.Label, Serial: token.SerialNumber, Manufacturer: token.ManufacturerID, Model: token.Model,
		Firmware: version(token.FirmwareVersion), Hardware: version(token.HardwareVersion),
	}
	return err
}

// mechanismFlags are the names of CK_MECHANISM_INFO's flags.
var mechanismFlags = []struct {
	flag uint
	name string
}{
	{pkcs11.CKF_ENCRYPT, "encrypt"},
	{pkcs11.CKF_DECRYPT, "decrypt"},
	{pkcs11.CKF_DIGEST, "digest"},
	{pkcs11.CKF_SIGN, "sign"},
	{pkcs11.CKF_VERIFY, "verify"},
	{pkcs11.CKF_GENERATE, "generate"},
	{pkcs11.CKF_GENERATE_KEY_PAIR, "generate-pair"},
	{pkcs11.CKF_WRAP, "wrap"},
	{pkcs11.CKF_UNWRAP, "unwrap"},
	{pkcs11.CKF_DERIVE, "derive"},
}

// mechanisms are those that the token lists.
func (p *prober) mechanisms() error {
	m := p.engine.module
	list, err := m.ctx.GetMechanismList(p.engine.slot)
	if err != nil {
		return managed("C_GetMechanismList", err)
	}
	slices.SortFunc(list, func(a, b *pkcs11.Mechanism) int { return int(a.Mechanism) - int(b.Mechanism) })
	for _, listed := range list {
		row := MechanismProfile{Mechanism: mechanismName(listed.Mechanism)}
		info, err := m.mechanismInfo(p.engine.slot, listed.Mechanism)
		if lost(err) {
			return err
		}
		row.MinKey, row.MaxKey = info.MinKeySize, info.MaxKeySize
		for _, f := range mechanismFlags {
			if info.Flags&f.flag != 0 {
				row.Flags = append(row.Flags, f.name)
			}
		}
		p.profile.Mechanisms = append(p.profile.Mechanisms, row)
	}
	return nil
}

// emptyIV is what the token makes of AES-GCM without an IV.
func (p *prober) emptyIV() (err error) {
	lib := p.engine.module.lib
	key, err := lib.generate(p.handle, mechAESKeyGen, keyTypeAES)
	if err != nil {
		return err
	}
	defer p.destroyAfter(key, &err)
	var out [2][]byte
	for i := range out {
		out[i] = make([]byte, len(canary)+tagBytes+ivBytesLong)
		n, err := lib.gcmEncrypt(p.handle, key, nil, nil, canary[:], out[i])
		if lost(err) {
			return err
		}
		if err != nil {
			p.profile.GCM.EmptyIV = "refused"
			return nil
		}
		out[i] = out[i][:n]
	}
	p.profile.GCM.EmptyIV = "random"
	if slices.Equal(out[0], out[1]) {
		p.profile.GCM.EmptyIV = "constant"
	}
	return nil
}

// searches are the cost of C_FindObjects by a CKA_ID that no object has.
func (p *prober) searches() error {
	m := p.engine.module
	objects, err := m.findAll(p.handle, []*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, true)})
	if err != nil {
		return err
	}
	const tries = 11
	var took []time.Duration
	for range tries {
		id := make([]byte, residentIDBytes)
		rand.Read(id) // never fails
		start := p.engine.cfg.Clock()
		if _, err := m.find(p.handle, []*pkcs11.Attribute{attribute(pkcs11.CKA_ID, id)}); err != nil {
			return err
		}
		took = append(took, p.engine.cfg.Clock().Sub(start))
	}
	slices.Sort(took)
	p.profile.Find = &FindProfile{Objects: len(objects), Microseconds: float64(took[tries/2]) / float64(time.Microsecond)}
	return nil
}

// ceiling opens sessions until the token refuses or there are enough.
func (p *prober) ceiling() (err error) {
	m := p.engine.module
	info, err := m.tokenInfo(p.engine.slot)
	if err != nil {
		return err
	}
	found := &SessionsProfile{Claimed: info.MaxRwSessionCount}
	if found.Claimed == pkcs11.CK_UNAVAILABLE_INFORMATION {
		found.Claimed = 0
	}
	var opened []handle
	defer func() {
		for _, h := range opened {
			if e := m.closeSession(h); err == nil {
				err = e
			}
		}
	}()
	for len(opened) < p.sessions {
		h, err := m.openSession(p.engine.slot)
		if err != nil {
			found.Refused = true
			break
		}
		opened = append(opened, h)
	}
	found.Opened = len(opened)
	p.profile.Sessions = found
	return nil
}

// try notes how a trial went. A token that does not answer ends the probe.
func (p *prober) try(trials *[]Trial, what string, do func() error) error {
	err := do()
	if lost(err) {
		return fmt.Errorf("%s: %w", what, err)
	}
	t := Trial{What: what, Works: err == nil}
	if err != nil {
		t.Problem = problemOf(err)
	}
	if _, t.Danger = errors.AsType[brokenPromise](err); t.Danger {
		t.Problem = err.Error()
	}
	*trials = append(*trials, t)
	return nil
}
