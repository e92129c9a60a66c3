package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
)

const terminator = "aws4_request"

// CheckScope refuses a signature that is too old or too new at now, whose
// credential is malformed, or that was made for another region, service or
// day; then whatever ParseHeader found that no key could put right.
// regionServed is asked once at most.
//
// A signature in the header holds five minutes before and after its time. One
// in the query string with X-Amz-Expires holds that long after its time.
func (s *Signature) CheckScope(now time.Time, regionServed func(region string) bool, service string) error {
	s.scoped = false
	if refusal := s.checkTime(now.UTC().Truncate(time.Second)); refusal != nil {
		return refusal
	}
	if strings.Count(s.credential, "/") != 4 {
		return refuse(Incomplete, "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '"+
			echo(s.credential, maxEcho)+"'")
	}
	if refusal := s.checkNames(regionServed, service); refusal != nil {
		return refusal
	}
	if s.flaw != nil {
		return s.flaw
	}
	if s.AccessKeyID == "" || len(s.Token) > maxTokenBytes {
		return refuse(Unrecognized, "The security token included in the request is invalid.")
	}
	s.scoped = true
	return nil
}

func (s *Signature) checkTime(now time.Time) *Error {
	if oldest := now.Add(-s.validity); s.Time.Before(oldest) {
		return refuse(Invalid, "Signature expired: "+s.amzDate+" is now earlier than "+oldest.Format(dateLayout)+
			" ("+now.Format(dateLayout)+" - "+minutes(s.validity)+")")
	}
	if newest := now.Add(window); s.Time.After(newest) {
		return refuse(Invalid, "Signature not yet current: "+s.amzDate+" is still later than "+newest.Format(dateLayout)+
			" ("+now.Format(dateLayout)+" + "+minutes(window)+")")
	}
	return nil
}

func minutes(d time.Duration) string {
	if d%time.Minute != 0 {
		return strconv.Itoa(int(d/time.Second)) + " sec."
	}
	return strconv.Itoa(int(d/time.Minute)) + " min."
}

func (s *Signature) checkNames(regionServed func(string) bool, service string) *Error {
	var wrong strings.Builder
	if !regionServed(s.Region) {
		wrong.WriteString("Credential should be scoped to a valid region, not '" + echo(s.Region, maxEcho) + "'. ")
	}
	if s.Service != service {
		wrong.WriteString("Credential should be scoped to correct service: '" + service + "'. ")
	}
	if s.terminator != terminator {
		wrong.WriteString("Credential should be scoped with a valid terminator: '" + terminator + "', not '" + echo(s.terminator, maxEcho) + "'. ")
	}
	if day := s.amzDate[:len("yyyymmdd")]; s.Date != day {
		wrong.WriteString("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '" +
			echo(s.Date, maxEcho) + "' != '" + day + "', from '" + s.amzDate + "'.")
	}
	if wrong.Len() == 0 {
		return nil
	}
	return refuse(Invalid, wrong.String())
}

// DeriveKey derives the key that signs one day's (yyyymmdd, UTC) requests to
// one service in one region. It may be cached until the day is over in place
// of the secret.
func DeriveKey(secret []byte, date, region, service string) [sha256.Size]byte {
	start := append([]byte("AWS4"), secret...)
	defer clear(start)
	key := authenticate(start, date)
	for _, part := range [...]string{region, service, terminator} {
		key = authenticate(key[:], part)
	}
	return key
}

func authenticate[T string | []byte](key []byte, message T) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(message))
	mac.Sum(sum[:0])
	return sum
}

// Verify tells whether the request was signed with the key that DeriveKey made
// of its scope. It must come after CheckScope and SetBody.
//
// The client may have signed the default port of its scheme with the host or
// left it out. hosts are further values that the client may have put into the
// host header before a trusted proxy replaced it, normally none.
func (s *Signature) Verify(key [sha256.Size]byte, hosts ...string) error {
	if !s.scoped {
		return mismatch("the scope has not been checked")
	}
	if !s.bodyFits {
		return mismatch("the body is not the one that X-Amz-Content-Sha256 tells")
	}
	if s.matches(key, s.canonical) {
		return nil
	}
	received := string(s.canonical[s.host.from:s.host.to])
	for _, host := range append(samePort(received), hosts...) {
		if s.matches(key, slices.Concat(s.canonical[:s.host.from], []byte(host), s.canonical[s.host.to:])) {
			return nil
		}
	}
	return mismatch("")
}

// samePort are the other ways to write a host with a default port.
func samePort(host string) []string {
	for _, port := range [...]string{":443", ":80"} {
		if bare, ok := strings.CutSuffix(host, port); ok {
			return []string{bare}
		}
	}
	if strings.LastIndexByte(host, ':') > strings.LastIndexByte(host, ']') {
		return nil
	}
	return []string{host + ":443", host + ":80"}
}

func (s *Signature) matches(key [sha256.Size]byte, canonical []byte) bool {
	_, scope, _ := strings.Cut(s.credential, "/")
	hash := sha256.Sum256(canonical)
	text := make([]byte, 0, 256)
	text = append(append(text, Algorithm+"\n"...), s.amzDate...)
	text = append(append(append(text, '\n'), scope...), '\n')
	text = hex.AppendEncode(text, hash[:])
	sum := authenticate(key[:], text)
	var want [2 * sha256.Size]byte
	hex.Encode(want[:], sum[:])
	return subtle.ConstantTimeCompare(want[:], []byte(s.signature)) == 1
}
