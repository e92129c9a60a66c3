package pkcs11

import "kmsgate/hsm/keyspec"

// Profile is what a token was found to do by doing it. Everything that the
// engine decides about mechanisms it decides from here, never from a vendor's
// name. The JSON is for machines and keeps its names.
type Profile struct {
	Library LibraryProfile `json:"library"`
	Token   TokenProfile   `json:"token"`
	// Mechanisms are those that the token lists.
	Mechanisms []MechanismProfile `json:"mechanisms,omitempty"`
	GCM        GCMProfile         `json:"gcm"`
	// Wraps are the wrap mechanisms tried, with what each can wrap.
	Wraps []WrapProfile `json:"wraps"`
	// Keys are the key specs and usages, with where such keys would live.
	Keys []KeyProfile `json:"keys"`
	// Algorithms are the ways in which each algorithm is done.
	Algorithms []AlgorithmProfile `json:"algorithms"`
	// ECPoint is how points are written: "octet string" (PKCS#11 v2.40, 2.3.3) or "raw".
	ECPoint string `json:"ecPoint,omitempty"`
	// DataKeyPairs are the specs of pairs whose private key the token gives out.
	DataKeyPairs []DataKeyPairProfile `json:"dataKeyPairs"`
	// Imported are the ways in which imported material gets in, by wrapping algorithm.
	Imported []ImportProfile `json:"imported"`
	// Transport is how keys travel to other tokens.
	Transport TransportProfile `json:"transport"`
	// Imports are the ways in which key material from outside could get in.
	Imports []Trial `json:"imports,omitempty"`
	// Enforced are the promises of attributes that were put to the test.
	Enforced []Trial `json:"enforced,omitempty"`
	// Codes are the return codes that this token has for data that is not good.
	Codes []CodeProfile `json:"codes,omitempty"`
	// Find is the cost of C_FindObjects by CKA_ID.
	Find *FindProfile `json:"find,omitempty"`
	// Sessions says how many sessions could be opened.
	Sessions *SessionsProfile `json:"sessions,omitempty"`
}

// Ways in which an algorithm is done.
const (
	InToken    = "token"   // all of it, but for hashing a message
	RawInToken = "raw"     // the private-key step in the token, the unpadding here; not if strict
	InLibrary  = "library" // a public-key operation in Go's standard library; not if strict
	Nowhere    = "none"    // not on this token
)

// AlgorithmProfile is how one algorithm is done with keys of one spec.
type AlgorithmProfile struct {
	Spec      keyspec.Spec      `json:"spec"`
	Algorithm keyspec.Algorithm `json:"algorithm"`
	// Private is how the operation with the secret or private key is done.
	Private string `json:"private"`
	// Public is how that with the public key is done; empty for secret keys and ECDH.
	Public string `json:"public,omitempty"`
	// Messages are the message types that it works for; nil where there are none.
	Messages []keyspec.MessageType `json:"messages,omitempty"`
	Problem  string                `json:"problem,omitempty"`
}

// KeyProfile is where keys of a spec and usage live.
type KeyProfile struct {
	Spec      keyspec.Spec  `json:"spec"`
	Usage     keyspec.Usage `json:"usage"`
	Residency string        `json:"residency"` // wrapped, resident or none
	Problem   string        `json:"problem,omitempty"`
}

// DataKeyPairProfile says whether pairs of a spec can be made for a caller.
type DataKeyPairProfile struct {
	Spec    keyspec.Spec `json:"spec"`
	Works   bool         `json:"works"`
	Problem string       `json:"problem,omitempty"`
}

// ImportProfile is how imported material under one wrapping algorithm gets in:
// "token" if it is unwrapped there; "raw" if only the RSA step is done there and the
// material passes through the process for a moment, which strict refuses.
type ImportProfile struct {
	Algorithm keyspec.WrappingAlgorithm `json:"algorithm"`
	Secrets   string                    `json:"secrets"` // AES and HMAC keys
	Pairs     string                    `json:"pairs"`   // private keys, whose encoding is checked outside
	Problem   string                    `json:"problem,omitempty"`
}

// TransportProfile is how keys travel to other tokens of a gateway's and come from
// them, the best way first. They are encrypted all the way.
type TransportProfile struct {
	OAEP    []string `json:"oaep"`  // hashes of RSAES-OAEP
	Wraps   []string `json:"wraps"` // forms of AES key wrap, with the mechanism here
	Problem string   `json:"problem,omitempty"`
}

// WrapProfile is one wrap mechanism and one kind of key. For secret keys the
// trial also shows whether their length survives.
type WrapProfile struct {
	Mechanism string `json:"mechanism"`
	Key       string `json:"key"` // AES, GENERIC_SECRET, RSA, EC, EC_EDWARDS, ML_DSA, ML_KEM
	Works     bool   `json:"works"`
	Problem   string `json:"problem,omitempty"`
}

// GCMProfile is how the token does AES-GCM.
type GCMProfile struct {
	IV      string `json:"iv"` // given, written or appended, as configured and found true
	IVBytes int    `json:"ivBytes"`
	// EmptyIV is what the token makes of a missing IV: "refused", or "constant" or
	// "random". It is never relied on.
	EmptyIV string `json:"emptyIV,omitempty"`
}

// LibraryProfile is what C_GetInfo says of the module.
type LibraryProfile struct {
	Path         string `json:"path"`
	Manufacturer string `json:"manufacturer"`
	Description  string `json:"description"`
	Version      string `json:"version"`
	Cryptoki     string `json:"cryptoki"`
	Interface32  bool   `json:"interface32"` // has the functions of PKCS#11 v3.2
}

// TokenProfile is what C_GetTokenInfo says of the token.
type TokenProfile struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Firmware     string `json:"firmware"`
	Hardware     string `json:"hardware"`
}

// MechanismProfile is a mechanism as the token lists it.
type MechanismProfile struct {
	Mechanism string   `json:"mechanism"`
	MinKey    uint     `json:"minKey"` // in the unit of the mechanism
	MaxKey    uint     `json:"maxKey"`
	Flags     []string `json:"flags"`
}

// Trial is something that was tried.
type Trial struct {
	What    string `json:"what"`
	Works   bool   `json:"works"`
	Problem string `json:"problem,omitempty"`
	// Danger is set where the token does what it has promised not to do; Problem is
	// then what that means.
	Danger bool `json:"danger,omitempty"`
}

// CodeProfile is a return code that the token has for something.
type CodeProfile struct {
	For  string `json:"for"`
	Code string `json:"code"`
}

// FindProfile is the cost of C_FindObjects.
type FindProfile struct {
	Objects      int     `json:"objects"`      // on the token
	Microseconds float64 `json:"microseconds"` // median of one search by CKA_ID
}

// SessionsProfile is what is known of the number of sessions.
type SessionsProfile struct {
	Claimed uint `json:"claimed"` // CK_TOKEN_INFO.ulMaxRwSessionCount; zero: no limit is known
	Opened  int  `json:"opened"`  // at once, in the trial
	Refused bool `json:"refused"` // the token refused one more
}
