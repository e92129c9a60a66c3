package pkcs11

import (
	"errors"
	"fmt"
	"strings"
)

// firstVendorCode is CKR_VENDOR_DEFINED: vendors give codes from here on a
// meaning of their own (PKCS#11 v2.40, section 2.1).
const firstVendorCode returnCode = 0x80000000

// vendorCodes are the codes of one vendor that mean something to us.
type vendorCodes map[returnCode]codeRow

// vendorProfile is a vendor's library and its codes.
type vendorProfile struct {
	library string // a part of the library's description in C_GetInfo
	codes   vendorCodes
}

// vendorProfiles are the libraries whose own codes are known. Of other vendors
// none is known to be met here: Utimaco, nShield, AWS CloudHSM, YubiHSM and
// SoftHSM report what happens to us with codes of the standard. What is missing
// is given by [Config.ReturnCodes].
var vendorProfiles = []vendorProfile{
	{library: "Chrystoki", codes: lunaCodes},
	{library: "NSS", codes: vendorCodes{
		0xCE534351: {name: "CKR_NSS_CERTDB_FAILED", class: classDevice},
		0xCE534352: {name: "CKR_NSS_KEYDB_FAILED", class: classDevice},
	}},
}

// lunaCodes are those of Thales Luna, from the cryptoki_v2.h of its client.
// Those that are not here, of the secure trusted channel (0x80000045 to
// 0x80000066) among them, are of the class device.
var lunaCodes = vendorCodes{
	0x80000006: {name: "CKR_TOO_MANY_CONTAINERS", class: classCapacity},
	0x80000007: {name: "CKR_USER_LOCKED_OUT", class: classPIN},
	0x8000000D: {name: "CKR_WRAPPING_ERROR", class: classUnsupported},
	0x8000000E: {name: "CKR_UNWRAPPING_ERROR", class: classData},
	0x8000001A: {name: "CKR_USER_NOT_AUTHORIZED", class: classLogin},
	0x8000001B: {name: "CKR_MAX_OBJECT_COUNT_EXCEEDED", class: classCapacity},
	0x8000001C: {name: "CKR_SO_LOGIN_FAILURE_THRESHOLD", class: classPIN},
	0x8000001F: {name: "CKR_UNABLE_TO_CONNECT", class: classDevice},
	0x80000020: {name: "CKR_PARTITION_DISABLED", class: classFatal},
	0x80000023: {name: "CKR_SP_TIMEOUT", class: classDevice},
	0x80000024: {name: "CKR_TIMEOUT", class: classDevice},
	0x80000025: {name: "CKR_ECC_UNKNOWN_CURVE", class: classUnsupported},
	0x80000026: {name: "CKR_MTK_ZEROIZED", class: classFatal},
	0x80000027: {name: "CKR_MTK_STATE_INVALID", class: classFatal},
	0x8000002A: {name: "CKR_HSM_STORAGE_FULL", class: classCapacity},
	0x8000002B: {name: "CKR_DEVICE_TIMEOUT", class: classDevice},
	0x8000002C: {name: "CKR_CONTAINER_OBJECT_STORAGE_FULL", class: classCapacity},
	0x8000002F: {name: "CKR_ECC_POINT_INVALID", class: classData},
	0x80000030: {name: "CKR_OPERATION_NOT_ALLOWED", class: classUnsupported},
	0x80000031: {name: "CKR_LICENSE_CAPACITY_EXCEEDED", class: classCapacity},
	0x80000035: {name: "CKR_LOG_FULL", class: classDevice}, // until an operator has emptied it
	0x80000041: {name: "CKR_AGAIN", class: classBusy},
	0x80000067: {name: "CKR_CHALLENGE_INCORRECT", class: classPIN},
	0x8000006A: {name: "CKR_KEY_NOT_KEKABLE", class: classUnsupported},
	0x8000006B: {name: "CKR_MECHANISM_INVALID_FOR_FP", class: classUnsupported},
	0x8000006C: {name: "CKR_OPERATION_INVALID_FOR_FP", class: classUnsupported},
	0x8000006D: {name: "CKR_SESSION_HANDLE_INVALID_FOR_FP", class: classSession},
	0x8000006E: {name: "CKR_CMD_NOT_ALLOWED_HSM_IN_TRANSPORT", class: classFatal},
	0x80000076: {name: "CKR_HSM_TAMPERED", class: classFatal},
	0x80000078: {name: "CKR_SESSION_CONTEXT_NOT_ALLOCATED", class: classSession},
	0x8000007C: {name: "CKR_CONFIG_ILLEGAL", class: classUnsupported},
	0x8000007D: {name: "CKR_CONFIG_FAILS_DEPENDENCIES", class: classUnsupported},
	0x8000008D: {name: "CKR_HSM_RESTART_REQUIRED", class: classFatal},
	0x80000114: {name: "CKR_OBJECT_READ_ONLY", class: classUnsupported},
	0x80000136: {name: "CKR_KEY_NOT_ACTIVE", class: classUnsupported},
}

// codesOf are the vendor codes of a library, by its description in C_GetInfo,
// and those that the configuration gives a class by its name.
func codesOf(library string, configured map[uint]string) (vendorCodes, error) {
	all := vendorCodes{}
	for _, p := range vendorProfiles {
		if strings.Contains(library, p.library) {
			for code, row := range p.codes {
				all[code] = row
			}
		}
	}
	for code, name := range configured {
		c, err := classNamed(name)
		if err != nil {
			return nil, fmt.Errorf("return code 0x%X: %w", code, err)
		}
		if returnCode(code) < firstVendorCode {
			return nil, fmt.Errorf("return code 0x%X is %s, whose meaning the standard gives: only codes from 0x%X on are the vendor's",
				code, returnCode(code), uint(firstVendorCode))
		}
		all[returnCode(code)] = codeRow{name: returnCode(code).String(), class: c}
	}
	return all, nil
}

// CheckReturnCodes refuses what [Config.ReturnCodes] cannot be: classes that
// there are none of, and codes that are not the vendor's.
func CheckReturnCodes(configured map[uint]string) error {
	_, err := codesOf("", configured)
	return err
}

// classNamed is the class of this name that a return code can have.
func classNamed(name string) (class, error) {
	var names []string
	for c, row := range classes {
		if class(c) == classOK || class(c) == classAnswer {
			continue
		}
		if row.name == name {
			return class(c), nil
		}
		names = append(names, row.name)
	}
	return 0, fmt.Errorf("class %q is not one of %s", name, strings.Join(names, ", "))
}

// explain notes in an error what the vendor means by its code.
func (v vendorCodes) explain(err error) error {
	if call, ok := errors.AsType[*callError](err); ok {
		if row, known := v[call.code]; known {
			call.vendor = &row
		}
	}
	return err
}

// learnCodes finds out what the return codes of the module mean. Nobody else is
// inside the gate.
func (e *Engine) learnCodes() error {
	info, err := e.module.ctx.GetInfo()
	if err != nil {
		return managed("C_GetInfo", err)
	}
	e.codes, err = codesOf(info.LibraryDescription, e.cfg.ReturnCodes)
	return err
}
