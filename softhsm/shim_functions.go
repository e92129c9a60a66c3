package softhsm

// Function is a place in CK_FUNCTION_LIST (PKCS#11 v2.40, section 3.6).
type Function int

// The functions of PKCS#11 v2.40.
const (
	Initialize Function = iota
	Finalize
	GetInfo
	GetFunctionList
	GetSlotList
	GetSlotInfo
	GetTokenInfo
	GetMechanismList
	GetMechanismInfo
	InitToken
	InitPIN
	SetPIN
	OpenSession
	CloseSession
	CloseAllSessions
	GetSessionInfo
	GetOperationState
	SetOperationState
	Login
	Logout
	CreateObject
	CopyObject
	DestroyObject
	GetObjectSize
	GetAttributeValue
	SetAttributeValue
	FindObjectsInit
	FindObjects
	FindObjectsFinal
	EncryptInit
	Encrypt
	EncryptUpdate
	EncryptFinal
	DecryptInit
	Decrypt
	DecryptUpdate
	DecryptFinal
	DigestInit
	Digest
	DigestUpdate
	DigestKey
	DigestFinal
	SignInit
	Sign
	SignUpdate
	SignFinal
	SignRecoverInit
	SignRecover
	VerifyInit
	Verify
	VerifyUpdate
	VerifyFinal
	VerifyRecoverInit
	VerifyRecover
	DigestEncryptUpdate
	DecryptDigestUpdate
	SignEncryptUpdate
	DecryptVerifyUpdate
	GenerateKey
	GenerateKeyPair
	WrapKey
	UnwrapKey
	DeriveKey
	SeedRandom
	GenerateRandom
	GetFunctionStatus
	CancelFunction
	WaitForSlotEvent

	functionCount = 68
)

// functionNames is indexed by Function.
var functionNames = [functionCount]string{
	"C_Initialize", "C_Finalize", "C_GetInfo", "C_GetFunctionList", "C_GetSlotList", "C_GetSlotInfo",
	"C_GetTokenInfo", "C_GetMechanismList", "C_GetMechanismInfo", "C_InitToken", "C_InitPIN", "C_SetPIN",
	"C_OpenSession", "C_CloseSession", "C_CloseAllSessions", "C_GetSessionInfo", "C_GetOperationState", "C_SetOperationState",
	"C_Login", "C_Logout", "C_CreateObject", "C_CopyObject", "C_DestroyObject", "C_GetObjectSize",
	"C_GetAttributeValue", "C_SetAttributeValue", "C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal", "C_EncryptInit",
	"C_Encrypt", "C_EncryptUpdate", "C_EncryptFinal", "C_DecryptInit", "C_Decrypt", "C_DecryptUpdate",
	"C_DecryptFinal", "C_DigestInit", "C_Digest", "C_DigestUpdate", "C_DigestKey", "C_DigestFinal",
	"C_SignInit", "C_Sign", "C_SignUpdate", "C_SignFinal", "C_SignRecoverInit", "C_SignRecover",
	"C_VerifyInit", "C_Verify", "C_VerifyUpdate", "C_VerifyFinal", "C_VerifyRecoverInit", "C_VerifyRecover",
	"C_DigestEncryptUpdate", "C_DecryptDigestUpdate", "C_SignEncryptUpdate", "C_DecryptVerifyUpdate", "C_GenerateKey", "C_GenerateKeyPair",
	"C_WrapKey", "C_UnwrapKey", "C_DeriveKey", "C_SeedRandom", "C_GenerateRandom", "C_GetFunctionStatus",
	"C_CancelFunction", "C_WaitForSlotEvent",
}

// String is the function's name.
func (f Function) String() string { return functionNames[f] }
