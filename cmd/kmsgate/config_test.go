package main

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
)

const sampleFile = "../../deployments/kmsgate.yaml"

// TestSampleIsWhole wants the sample configuration to be accepted and to have every
// key that there is, at least in a comment.
func TestSampleIsWhole(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(sampleFile)
	if err != nil {
		t.Fatal(err)
	}
	uncommented := func(names string) string {
		return regexp.MustCompile(`(?m)^( *)#(\S+:( .*)?|  (`+names+`): .*)$`).ReplaceAllString(string(text), "$1$2")
	}
	for name, text := range map[string]string{
		"as it is":               string(text),
		"with its optional keys": strings.Replace(uncommented("certificate|key"), "        label: kmsgate\n", "", 1),
		"with a key in a token":  strings.Replace(uncommented("certificate|token|key_id"), "        label: kmsgate\n", "", 1),
	} {
		if _, err := parseConfig([]byte(text), (*config).checkListening); err != nil {
			t.Errorf("the sample %s: %v", name, err)
		}
	}
	for _, key := range keysOf(reflect.TypeFor[config](), "") {
		name := key[strings.LastIndex(key, ".")+1:]
		if !regexp.MustCompile(`(?m)^[ #-]*` + name + `:`).MatchString(string(text)) {
			t.Errorf("the sample has no key %s", key)
		}
	}
}

// TestSampleHasTheDefaults wants what the sample calls optional to be the default:
// who leaves it out gets the same.
func TestSampleHasTheDefaults(t *testing.T) {
	t.Parallel()
	c, err := readConfig(sampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if !*c.Throttling || c.Log != "info" || c.Database.AllowUnsafeDurability {
		t.Errorf("throttling %v, log %s, allow_unsafe_durability %v; want true, info, false", *c.Throttling, c.Log, c.Database.AllowUnsafeDurability)
	}
	if c.GenerationTimeout != defaultGenerationTimeout {
		t.Errorf("generation_timeout is %v, want %v", c.GenerationTimeout, defaultGenerationTimeout)
	}
	token := engineConfigOf(c.Modules[0], c.Modules[0].Tokens[0])
	if token.Strict || token.IV != pkcs11.IVGiven || token.WrapMechanisms != nil || c.residentStores("main") != nil {
		t.Errorf("strict %v, iv %v, wrap_mechanisms %v, resident stores %v; want false, given, none, none",
			token.Strict, token.IV, token.WrapMechanisms, c.residentStores("main"))
	}
}

// TestTokenSettingsReachTheEngine changes what the sample says of its token.
func TestTokenSettingsReachTheEngine(t *testing.T) {
	t.Parallel()
	text := sampleText(t)
	for _, change := range [][2]string{
		{"strict: false", "strict: true"},
		{"iv: given", "iv: appended"},
		{"#return_codes:", "return_codes:"},
		{"#  0x80000123: busy", "  0x80000123: busy"},
		{"#wrap_mechanisms: [0x210B, 0x2109]", "wrap_mechanisms: [0x210B, 0x80000171]"},
		{"residency: wrapped", "residency: resident"},
		{"generation_timeout: 60s", "generation_timeout: 2m"},
		{"isolation: none", "isolation: process"},
	} {
		text = replaced(t, text, change[0], change[1])
	}
	c, err := parseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	token := engineConfigOf(c.Modules[0], c.Modules[0].Tokens[0])
	if !token.Strict || token.IV != pkcs11.IVAppended || !reflect.DeepEqual(token.WrapMechanisms, []uint{0x210B, 0x80000171}) {
		t.Errorf("strict %v, iv %v, wrap_mechanisms %x; want true, appended, [210b 80000171]", token.Strict, token.IV, token.WrapMechanisms)
	}
	if want := map[uint]string{0x80000123: "busy"}; !reflect.DeepEqual(token.ReturnCodes, want) {
		t.Errorf("return_codes %v, want %v", token.ReturnCodes, want)
	}
	if got := c.residentStores("main"); !reflect.DeepEqual(got, []string{"default-us-east-1"}) || c.Regions[0].Residency != hsm.Resident {
		t.Errorf("resident stores of the token are %q, want the region's", got)
	}
	if c.Modules[0].Isolation != isolationProcess {
		t.Errorf("isolation %q, want process", c.Modules[0].Isolation)
	}
	if c.residentStores("other") != nil || c.generationTimeout().Minutes() != 2 {
		t.Errorf("resident stores of another token %q, generation_timeout %v; want none, 2m", c.residentStores("other"), c.generationTimeout())
	}
}

// TestSettingsThatCannotWork wants them to be refused with their line and key.
func TestSettingsThatCannotWork(t *testing.T) {
	t.Parallel()
	const inToken, commented = "\ntls:\n  certificate: c.pem\n  token: main\n  key_id: \"0a0b\"\n", "\n#tls:\n"
	for _, tc := range []struct{ name, was, is, want string }{
		{"isolation of another word", "isolation: none", "isolation: container", "modules[0].isolation: must be none or process"},
		{"key and token", commented, inToken + "  key: k.pem\n", "tls: has a key and a token"},
		{"token without key_id", commented, strings.Replace(inToken, "  key_id: \"0a0b\"\n", "", 1), "tls: needs both token and key_id"},
		{"key_id without token", commented, strings.Replace(inToken, "  token: main\n", "", 1), "tls: needs both certificate and key"},
		{"token without certificate", commented, strings.Replace(inToken, "  certificate: c.pem\n", "", 1), "tls: needs both certificate and key"},
		{"key_id in decimals with a letter", commented, strings.Replace(inToken, "0a0b", "0x0a", 1), "tls.key_id: must be a CKA_ID"},
		{"key_id of odd length", commented, strings.Replace(inToken, "0a0b", "0a0", 1), "tls.key_id: must be a CKA_ID"},
		{"key_id too long", commented, strings.Replace(inToken, "0a0b", strings.Repeat("0a", 65), 1), "tls.key_id: must be a CKA_ID"},
		{"token that is not there", commented, strings.Replace(inToken, "main", "mian", 1), `tls.token: no token has the name "mian"`},
		{"TLS off loopback", "listen: 127.0.0.1:4599", "listen: 0.0.0.0:4599", "listen: 0.0.0.0:4599 is not loopback"},
		{"unknown IV", "iv: given", "iv: mine", "modules[0].tokens[0].iv: must be given, written or appended"},
		{"wrap mechanism in words", "#wrap_mechanisms: [0x210B, 0x2109]", "wrap_mechanisms: [KWP]", `"KWP" is not a number`},
		{"wrap mechanism alone", "#wrap_mechanisms: [0x210B, 0x2109]", "wrap_mechanisms: KWP", `"KWP" is not a list of numbers`},
		{"unknown class", "#return_codes:", "return_codes: {0x80000123: odd}", `modules[0].return_codes: return code 0x80000123: class "odd" is not one of data, `},
		{"the standard's code", "#return_codes:", "return_codes: {0x30: busy}", "modules[0].return_codes: return code 0x30 is CKR_DEVICE_ERROR"},
		{"external residency", "residency: wrapped", "residency: external", "regions[0].residency: must be wrapped or resident"},
		{"no time for a pair", "generation_timeout: 60s", "generation_timeout: 1ms", "generation_timeout: must be 1s to 10m0s"},
		{"no issuer", "#credentials:\n", badCredential("issuer: oidc.example.com"), `credentials[0].issuer: "oidc.example.com" is not the URL`},
		{"no role", "#credentials:\n", badCredential("role: arn:aws:iam::111122223333:user/shop"), "credentials[0].role: "},
		{"no web identity", "#credentials:\n", badCredential("namespace: \"\""), "credentials[0]: needs either namespace and service_account, or subject"},
		{"two web identities", "#credentials:\n", badCredential("subject: web"), "credentials[0]: needs either"},
		{"half a service account", "#credentials:\n", badCredential("namespace: \"\", subject: web"), "credentials[0]: has a subject and a service account"},
		{"a negative quota", "#quotas:\n", "quotas: {keys_per_account: -1}\n", "quotas.keys_per_account: cannot be negative"},
		{"a webhook in the clear", "#events:\n", badEvents("url: http://events.example.com/"), "events.url: "},
		{"no webhook", "#events:\n", "events: {secret_file: s}\n", "events.url: "},
		{"no secret", "#events:\n", badEvents("secret_file: \"\""), "events.secret_file: is missing"},
		{"a patient webhook", "#events:\n", badEvents("timeout: 2m"), "events.timeout: must be 1s to 1m0s"},
		{"a token twice", "\n# Regions are labels", "\n      - {name: second, label: kmsgate, pin_file: p}\n# Regions are labels", "modules[0].tokens[1]: is a token that has another name"},
		{"a name twice", "\n# Regions are labels", "\n      - {name: main, label: other, pin_file: p}\n# Regions are labels", "modules[0].tokens[1].name: "},
		{"too long for a pair", "generation_timeout: 60s", "generation_timeout: 1h", "generation_timeout: must be 1s to 10m0s"},
	} {
		_, err := parseConfig([]byte(replaced(t, sampleText(t), tc.was, tc.is)), (*config).checkListening)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("%s: %v, want a line and %q", tc.name, err, tc.want)
		}
	}
}

// TestTokensOfOneLibrary wants a library to have several tokens.
func TestTokensOfOneLibrary(t *testing.T) {
	t.Parallel()
	text := replaced(t, sampleText(t), "\n# Regions are labels", "\n      - {name: second, label: other, pin_file: p}\n# Regions are labels")
	c, err := parseConfig([]byte(text))
	if err != nil || len(c.Modules[0].Tokens) != 2 {
		t.Errorf("two tokens of a library: %v", err)
	}
}

// TestKeyIDsAreText wants a CKA_ID to be read digit by digit, though it looks like a
// number to YAML.
func TestKeyIDsAreText(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"00112233445566778899001122334455", "0012", "12e4"} {
		c, err := parseConfig([]byte(replaced(t, sampleText(t), "\n#tls:\n", "\ntls:\n  certificate: c.pem\n  token: main\n  key_id: "+id+"\n")))
		if err != nil || c.TLS.KeyID != id {
			t.Errorf("key_id %s: %v, or it is read as another one", id, err)
		}
	}
}

// TestCommandsRunBeforeThereIsTLS wants the commands that make a key and its
// certificate to take a configuration that serve does not take yet.
func TestCommandsRunBeforeThereIsTLS(t *testing.T) {
	t.Parallel()
	text := replaced(t, sampleText(t), "listen: 127.0.0.1:4599", "listen: 0.0.0.0:4599")
	if _, err := parseConfig([]byte(text)); err != nil {
		t.Error(err)
	}
}

func sampleText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(sampleFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// replaced is text with the one place changed that was as it says.
func replaced(t *testing.T, text, was, is string) string {
	t.Helper()
	if !strings.Contains(text, was) {
		t.Fatalf("%q is not in the sample", was)
	}
	return strings.Replace(text, was, is, 1)
}

// keysOf are the keys of a part of the configuration, with their path.
func keysOf(part reflect.Type, path string) []string {
	switch part.Kind() {
	case reflect.Slice, reflect.Pointer:
		return keysOf(part.Elem(), path)
	case reflect.Struct:
	default:
		return nil
	}
	var keys []string
	for field := range part.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		keys = append(keys, path+name)
		keys = append(keys, keysOf(field.Type, path+name+".")...)
	}
	return keys
}

// TestServicesOfTheConfiguration declares services that cannot be.
func TestServicesOfTheConfiguration(t *testing.T) {
	t.Parallel()
	declared := "#services:\n#  - name: storage\n#    callers: [\"arn:aws:iam::111122223333:role/storage\"]\n"
	for services, want := range map[string]string{
		"services:\n  - name: storage\n    callers: [\"arn:aws:iam::111122223333:role/storage\", \"arn:aws:iam::111122223333:user/a/b\", \"arn:aws:iam::111122223333:root\"]\n": "",
		"services:\n  - name: Storage\n    callers: [\"arn:aws:iam::111122223333:root\"]\n":                                                                                     "services[0].name: must be",
		"services:\n  - name: storage\n": "services[0].callers: is missing",
		"services:\n  - name: storage\n    callers: [\"arn:aws:sts::111122223333:assumed-role/a/b\"]\n":     "services[0].callers[0]: ",
		"services:\n  - name: storage\n    callers: [\"*\"]\n":                                              "services[0].callers[0]: ",
		"services:\n  - &s\n    name: storage\n    callers: [\"arn:aws:iam::111122223333:root\"]\n  - *s\n": `services[1].name: "storage" is listed already`,
	} {
		_, err := parseConfig([]byte(replaced(t, sampleText(t), declared, services)))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", services, err, want)
		}
	}
	if _, err := parseConfig([]byte(replaced(t, sampleText(t), "keep_refusals: 720h", "keep_refusals: 1m"))); err == nil || !strings.Contains(err.Error(), "keep_refusals: must be") {
		t.Errorf("keep_refusals of a minute: %v, want a refusal", err)
	}
}

// badCredential are credentials of a configuration with a change.
func badCredential(change string) string {
	members := map[string]string{
		"issuer": "https://oidc.example.com", "namespace": "shop", "service_account": "web", "role": "arn:aws:iam::111122223333:role/shop",
	}
	for part := range strings.SplitSeq(change, ", ") {
		name, value, _ := strings.Cut(part, ": ")
		members[name] = value
	}
	text := "credentials:\n  - {"
	for name, value := range members {
		text += name + ": " + value + ", "
	}
	return text + "}\n"
}

// badEvents is a webhook that would do, with a key changed.
func badEvents(change string) string {
	members := map[string]string{"url": "https://events.example.com/", "secret_file": "s", "timeout": "5s"}
	name, value, _ := strings.Cut(change, ": ")
	members[name] = value
	text := "events:\n"
	for name, value := range members {
		text += "  " + name + ": " + value + "\n"
	}
	return text
}

// TestCredentialsOnce wants a web identity to have one role.
func TestCredentialsOnce(t *testing.T) {
	t.Parallel()
	const twice = `credentials:
  - {issuer: "https://a.example", namespace: shop, service_account: web, role: "arn:aws:iam::111122223333:role/a"}
  - {issuer: "https://a.example", subject: "system:serviceaccount:shop:web", role: "arn:aws:iam::111122223333:role/b"}
`
	_, err := parseConfig([]byte(replaced(t, sampleText(t), "#credentials:\n", twice)))
	if err == nil || !strings.Contains(err.Error(), "credentials[1]: is of a web identity that is listed already") {
		t.Errorf("one web identity twice: %v", err)
	}
}
