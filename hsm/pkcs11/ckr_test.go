package pkcs11

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

// standardCodes are the names, without CKR_, and the numbers of all return codes
// in pkcs11t.h of PKCS#11 v3.2, which has those of v2.40, v3.0 and v3.1 too.
const standardCodes = `
OK=000 CANCEL=001 HOST_MEMORY=002 SLOT_ID_INVALID=003 GENERAL_ERROR=005 FUNCTION_FAILED=006 ARGUMENTS_BAD=007 NO_EVENT=008
NEED_TO_CREATE_THREADS=009 CANT_LOCK=00A ATTRIBUTE_READ_ONLY=010 ATTRIBUTE_SENSITIVE=011 ATTRIBUTE_TYPE_INVALID=012
ATTRIBUTE_VALUE_INVALID=013 ACTION_PROHIBITED=01B DATA_INVALID=020 DATA_LEN_RANGE=021 DEVICE_ERROR=030 DEVICE_MEMORY=031
DEVICE_REMOVED=032 ENCRYPTED_DATA_INVALID=040 ENCRYPTED_DATA_LEN_RANGE=041 AEAD_DECRYPT_FAILED=042 FUNCTION_CANCELED=050
FUNCTION_NOT_PARALLEL=051 FUNCTION_NOT_SUPPORTED=054 KEY_HANDLE_INVALID=060 KEY_SIZE_RANGE=062 KEY_TYPE_INCONSISTENT=063
KEY_NOT_NEEDED=064 KEY_CHANGED=065 KEY_NEEDED=066 KEY_INDIGESTIBLE=067 KEY_FUNCTION_NOT_PERMITTED=068 KEY_NOT_WRAPPABLE=069
KEY_UNEXTRACTABLE=06A MECHANISM_INVALID=070 MECHANISM_PARAM_INVALID=071 OBJECT_HANDLE_INVALID=082 OPERATION_ACTIVE=090
OPERATION_NOT_INITIALIZED=091 PIN_INCORRECT=0A0 PIN_INVALID=0A1 PIN_LEN_RANGE=0A2 PIN_EXPIRED=0A3 PIN_LOCKED=0A4
SESSION_CLOSED=0B0 SESSION_COUNT=0B1 SESSION_HANDLE_INVALID=0B3 SESSION_PARALLEL_NOT_SUPPORTED=0B4 SESSION_READ_ONLY=0B5
SESSION_EXISTS=0B6 SESSION_READ_ONLY_EXISTS=0B7 SESSION_READ_WRITE_SO_EXISTS=0B8 SIGNATURE_INVALID=0C0 SIGNATURE_LEN_RANGE=0C1
TEMPLATE_INCOMPLETE=0D0 TEMPLATE_INCONSISTENT=0D1 TOKEN_NOT_PRESENT=0E0 TOKEN_NOT_RECOGNIZED=0E1 TOKEN_WRITE_PROTECTED=0E2
UNWRAPPING_KEY_HANDLE_INVALID=0F0 UNWRAPPING_KEY_SIZE_RANGE=0F1 UNWRAPPING_KEY_TYPE_INCONSISTENT=0F2 USER_ALREADY_LOGGED_IN=100
USER_NOT_LOGGED_IN=101 USER_PIN_NOT_INITIALIZED=102 USER_TYPE_INVALID=103 USER_ANOTHER_ALREADY_LOGGED_IN=104
USER_TOO_MANY_TYPES=105 WRAPPED_KEY_INVALID=110 WRAPPED_KEY_LEN_RANGE=112 WRAPPING_KEY_HANDLE_INVALID=113
WRAPPING_KEY_SIZE_RANGE=114 WRAPPING_KEY_TYPE_INCONSISTENT=115 RANDOM_SEED_NOT_SUPPORTED=120 RANDOM_NO_RNG=121
DOMAIN_PARAMS_INVALID=130 CURVE_NOT_SUPPORTED=140 BUFFER_TOO_SMALL=150 SAVED_STATE_INVALID=160 INFORMATION_SENSITIVE=170
STATE_UNSAVEABLE=180 CRYPTOKI_NOT_INITIALIZED=190 CRYPTOKI_ALREADY_INITIALIZED=191 MUTEX_BAD=1A0 MUTEX_NOT_LOCKED=1A1
NEW_PIN_MODE=1B0 NEXT_OTP=1B1 EXCEEDED_MAX_ITERATIONS=1B5 FIPS_SELF_TEST_FAILED=1B6 LIBRARY_LOAD_FAILED=1B7 PIN_TOO_WEAK=1B8
PUBLIC_KEY_INVALID=1B9 FUNCTION_REJECTED=200 TOKEN_RESOURCE_EXCEEDED=201 OPERATION_CANCEL_FAILED=202 KEY_EXHAUSTED=203 PENDING=204
SESSION_ASYNC_NOT_SUPPORTED=205 SEED_RANDOM_REQUIRED=206 OPERATION_NOT_VALIDATED=207 TOKEN_NOT_INITIALIZED=208
PARAMETER_SET_NOT_SUPPORTED=209
`

func TestReturnCodeTableIsComplete(t *testing.T) {
	want := map[returnCode]string{}
	for _, line := range strings.Fields(standardCodes) {
		name, number, _ := strings.Cut(line, "=")
		code, err := strconv.ParseUint(number, 16, 32)
		must(t, err)
		want[returnCode(code)] = "CKR_" + name
	}
	got := map[returnCode]string{}
	for code, row := range returnCodes {
		got[code] = row.name
		if row.class == classAnswer || (row.class == classOK) != (code == 0) {
			t.Errorf("%s has class %s", code, classes[row.class].name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("return codes (-standard +table):\n%s", diff)
	}
	for code := range uint(0x1000) {
		if _, name, _ := strings.Cut(pkcs11.Error(code).Error(), "CKR_"); name != "" && got[returnCode(code)] != "CKR_"+name {
			t.Errorf("code 0x%X = %q in the table, want CKR_%s", code, got[returnCode(code)], name)
		}
	}
	for c, row := range classes {
		if row.name == "" || (row.answer == nil) != (class(c) == classOK) {
			t.Errorf("class %d = %+v", c, row)
		}
	}
	for _, p := range vendorProfiles {
		for code, row := range p.codes {
			if code < firstVendorCode || row.class == classOK || row.class == classAnswer || row.name == "" {
				t.Errorf("%s: code 0x%X = %+v", p.library, uint(code), row)
			}
		}
	}
}

func TestVendorsCodesMeanWhatTheyMeanToTheirVendor(t *testing.T) {
	configured := map[uint]string{0x80000041: "device", 0x80001234: "busy"}
	for library, want := range map[string]map[returnCode]string{
		"SoftHSM":       {0x80000041: "device", 0x80001234: "busy", 0x80000076: "device"},
		"Chrystoki":     {0x80000041: "device", 0x80001234: "busy", 0x80000076: "fatal", 0x8000000E: "data"},
		"NSS Softoken ": {0xCE534351: "device", 0x80000076: "device"},
	} {
		codes, err := codesOf(library, configured)
		must(t, err)
		for code, name := range want {
			if got := classes[classOf(codes.explain(&callError{function: "C_Sign", code: code}), false)].name; got != name {
				t.Errorf("%s: 0x%X is of the class %s, want %s", library, uint(code), got, name)
			}
		}
	}
	luna, err := codesOf("Chrystoki", nil)
	must(t, err)
	if got, want := luna.explain(&callError{function: "C_Sign", code: 0x80000076}).Error(), "C_Sign: CKR_HSM_TAMPERED (0x80000076)"; got != want {
		t.Errorf("error = %q, want %q", got, want)
	}
	for problem, configured := range map[string]map[uint]string{
		`class "broken" is not one of data, unsupported, session, object, login, device, busy, capacity, pin, fatal`: {0x80000001: "broken"},
		"CKR_DEVICE_ERROR, whose meaning the standard gives":                                                         {0x30: "fatal"},
	} {
		_, err := Open(t.Context(), Config{Module: "m", Label: "l", PIN: PINFile("f"), ReturnCodes: configured})
		if err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("Open with return codes %v = %v, want an error with %q", configured, err, problem)
		}
	}
}

// TestUnknownCodeOfALoginIsNotTriedAgain: a code that nobody knows may say that
// the PIN is wrong.
func TestUnknownCodeOfALoginIsNotTriedAgain(t *testing.T) {
	cfg := configFor(newToken(t))
	shim := newShim(t, &cfg)
	shim.Fail(softhsm.Login, 0x80000067, 2)
	if _, err := Open(t.Context(), cfg); !errors.Is(err, hsm.ErrPIN) {
		t.Errorf("Open where C_Login says 0x80000067 = %v, want %v", err, hsm.ErrPIN)
	}
	cfg.ReturnCodes = map[uint]string{0x80000067: "device"}
	if _, err := Open(t.Context(), cfg); !errors.Is(err, hsm.ErrUnavailable) || errors.Is(err, hsm.ErrPIN) {
		t.Errorf("Open where C_Login says that the device is away = %v, want %v", err, hsm.ErrUnavailable)
	}
}

func TestREADMEListsTheClasses(t *testing.T) {
	var table strings.Builder
	table.WriteString("| class | means | tried again | session kept | made again | the caller gets, if nothing better is known |\n|---|---|---|---|---|---|\n")
	yes := map[bool]string{true: "yes", false: "no"}
	for _, row := range classes {
		if row.means == "" {
			continue
		}
		_, answer, _ := strings.Cut(row.answer.Error(), "hsm: ")
		fmt.Fprintf(&table, "| %s | %s | %s | %s | %s | %s |\n",
			row.name, row.means, map[bool]string{true: "once", false: "no"}[row.retry], yes[row.keepsSession], row.remade, answer)
	}
	readme, err := os.ReadFile("../README.md")
	must(t, err)
	if !strings.Contains(string(readme), table.String()) {
		t.Errorf("hsm/README.md does not have this table of classes:\n%s", &table)
	}
}
