// A program that uses the functions of PKCS#11 v3.2 that Go's binding lacks. It
// takes the module, the slot and the PIN, and then commands from its input:
//   pair SET                  makes an ML-KEM pair: CK_RV, CKA_VALUE of the public key
//   encapsulate CAP TEMPLATE  CK_RV, length, ciphertext, CKA_VALUE of the secret
//   decapsulate CT TEMPLATE   CK_RV, CKA_VALUE of the secret
//   interface NAME MAJOR MINOR FLAGS   CK_RV and the version that it gave
// TEMPLATE is a letter, see templates; CAP may be "null".
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long CK_ULONG, CK_RV, CK_HANDLE;
typedef unsigned char CK_BYTE;
typedef struct { CK_ULONG type; void *pValue; CK_ULONG ulValueLen; } CK_ATTRIBUTE;
typedef struct { CK_ULONG mechanism; void *pParameter; CK_ULONG ulParameterLen; } CK_MECHANISM;
typedef void (*other)(void);

// CK_FUNCTION_LIST_3_2, as far as it is used here.
typedef struct {
	CK_BYTE major, minor;
	CK_RV (*C_Initialize)(void *);
	other up_to_open_session[11];
	CK_RV (*C_OpenSession)(CK_ULONG, CK_ULONG, void *, void *, CK_HANDLE *);
	other up_to_login[5];
	CK_RV (*C_Login)(CK_HANDLE, CK_ULONG, CK_BYTE *, CK_ULONG);
	other up_to_get_attribute_value[5];
	CK_RV (*C_GetAttributeValue)(CK_HANDLE, CK_HANDLE, CK_ATTRIBUTE *, CK_ULONG);
	other up_to_generate_key_pair[34];
	CK_RV (*C_GenerateKeyPair)(CK_HANDLE, CK_MECHANISM *, CK_ATTRIBUTE *, CK_ULONG, CK_ATTRIBUTE *, CK_ULONG, CK_HANDLE *, CK_HANDLE *);
	other up_to_wait_for_slot_event[8];
	other C_GetInterfaceList, C_GetInterface, C_LoginUser, C_SessionCancel;
	other messages[20];
	CK_RV (*C_EncapsulateKey)(CK_HANDLE, CK_MECHANISM *, CK_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_BYTE *, CK_ULONG *, CK_HANDLE *);
	CK_RV (*C_DecapsulateKey)(CK_HANDLE, CK_MECHANISM *, CK_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_BYTE *, CK_ULONG, CK_HANDLE *);
	CK_RV (*C_VerifySignatureInit)(CK_HANDLE, CK_MECHANISM *, CK_HANDLE, CK_BYTE *, CK_ULONG);
	other the_rest[9];
} functions;
typedef struct { char *name; functions *functions; CK_ULONG flags; } CK_INTERFACE;

enum {
	CKA_CLASS = 0, CKA_TOKEN = 1, CKA_VALUE = 0x11, CKA_KEY_TYPE = 0x100, CKA_SENSITIVE = 0x103, CKA_VALUE_LEN = 0x161, CKA_EXTRACTABLE = 0x162,
	CKA_PARAMETER_SET = 0x61D, CKA_ENCAPSULATE = 0x633, CKA_DECAPSULATE = 0x634, CKM_ML_KEM_KEY_PAIR_GEN = 0xF, CKM_ML_KEM = 0x17,
};

static functions *f;
static CK_HANDLE session, public_key, private_key;
static CK_BYTE yes = 1, no = 0;
static CK_ULONG secret_key = 4, private_class = 3, generic = 0x10, aes = 0x1F, len_32 = 32, len_16 = 16;

// Templates of secrets by a letter.
static CK_ULONG template(char letter, CK_ATTRIBUTE *t) {
	CK_ATTRIBUTE class = {CKA_CLASS, &secret_key, 8}, type = {CKA_KEY_TYPE, &generic, 8}, readable = {CKA_SENSITIVE, &no, 1},
		extractable = {CKA_EXTRACTABLE, &yes, 1};
	t[0] = class, t[1] = type, t[2] = readable, t[3] = extractable;
	switch (letter) {
	case 'r': return 4;                                                   // readable
	case 'd': return 3;                                                   // readable by the default of EXTRACTABLE
	case 'a': t[1].pValue = &aes; return 4;                               // an AES key
	case 'l': t[4] = (CK_ATTRIBUTE){CKA_VALUE_LEN, &len_32, 8}; return 5; // the right length
	case 'w': t[4] = (CK_ATTRIBUTE){CKA_VALUE_LEN, &len_16, 8}; return 5; // a wrong one
	case 's': t[2].pValue = &yes; return 4;                               // sensitive
	case 't': t[1] = t[3]; return 3;                                      // no key type
	case 'p': t[0].pValue = &private_class; return 4;                     // another class
	}
	exit(2);
}

static void print_hex(CK_BYTE *p, CK_ULONG n) {
	putchar(' ');
	if (n == 0) putchar('-');
	for (CK_ULONG i = 0; i < n; i++) printf("%02x", p[i]);
}

static void print_value(CK_HANDLE object) {
	static CK_BYTE value[4096];
	CK_ATTRIBUTE a = {CKA_VALUE, value, sizeof value};
	CK_RV rv = f->C_GetAttributeValue(session, object, &a, 1);
	if (rv == 0) print_hex(value, a.ulValueLen);
	else printf(" !%lx", rv);
}

static void pair(CK_ULONG set) {
	CK_MECHANISM m = {CKM_ML_KEM_KEY_PAIR_GEN, NULL, 0};
	CK_ATTRIBUTE public_t[] = {{CKA_PARAMETER_SET, &set, 8}, {CKA_ENCAPSULATE, &yes, 1}}, private_t[] = {{CKA_DECAPSULATE, &yes, 1}};
	CK_RV rv = f->C_GenerateKeyPair(session, &m, public_t, 2, private_t, 1, &public_key, &private_key);
	printf("%lx", rv);
	if (rv == 0) print_value(public_key);
}

static void encapsulate(const char *cap, char letter) {
	static CK_BYTE ciphertext[4096];
	CK_ATTRIBUTE t[8];
	CK_HANDLE secret = 0;
	CK_MECHANISM m = {CKM_ML_KEM, NULL, 0};
	int query = strcmp(cap, "null") == 0;
	CK_ULONG n = strtoul(cap, NULL, 10);
	CK_RV rv = f->C_EncapsulateKey(session, &m, public_key, t, template(letter, t), query ? NULL : ciphertext, &n, &secret);
	printf("%lx %lu", rv, n);
	if (rv != 0 || query) return;
	print_hex(ciphertext, n);
	print_value(secret);
}

static void decapsulate(const char *hex, char letter) {
	static CK_BYTE ciphertext[4096];
	CK_ATTRIBUTE t[8];
	CK_HANDLE secret = 0;
	CK_MECHANISM m = {CKM_ML_KEM, NULL, 0};
	CK_ULONG n = strcmp(hex, "-") == 0 ? 0 : strlen(hex) / 2;
	for (CK_ULONG i = 0; i < n; i++) sscanf(hex + 2 * i, "%2hhx", &ciphertext[i]);
	CK_RV rv = f->C_DecapsulateKey(session, &m, private_key, t, template(letter, t), ciphertext, n, &secret);
	printf("%lx", rv);
	if (rv == 0) print_value(secret);
}

static CK_RV (*get_interface)(const char *, CK_BYTE *, CK_INTERFACE **, CK_ULONG);

static void interface(const char *name, int major, int minor, CK_ULONG flags) {
	CK_BYTE version[2] = {major, minor};
	CK_INTERFACE *found = NULL;
	CK_RV rv = get_interface(strcmp(name, "any") == 0 ? NULL : strcmp(name, "standard") == 0 ? "PKCS 11" : name,
		major == 0 ? NULL : version, &found, flags);
	printf("%lx", rv);
	if (rv == 0) printf(" %d.%d", found->functions->major, found->functions->minor);
}

int main(int argc, char **argv) {
	CK_INTERFACE *found = NULL;
	CK_BYTE version[2] = {3, 2};
	void *module = dlopen(argv[1], RTLD_NOW);
	if (argc != 4 || module == NULL) return 2;
	*(void **)&get_interface = dlsym(module, "C_GetInterface");
	if (get_interface == NULL || get_interface("PKCS 11", version, &found, 0) != 0) return 3;
	f = found->functions;
	if (f->C_Initialize(NULL) != 0 || f->C_OpenSession(strtoul(argv[2], NULL, 10), 4 | 2, NULL, NULL, &session) != 0 ||
		f->C_Login(session, 1, (CK_BYTE *)argv[3], strlen(argv[3])) != 0) return 4;
	static char line[16384], word[16384];
	while (fgets(line, sizeof line, stdin) != NULL) {
		CK_ULONG number;
		char letter;
		int major, minor;
		if (sscanf(line, "pair %lu", &number) == 1) pair(number);
		else if (sscanf(line, "encapsulate %s %c", word, &letter) == 2) encapsulate(word, letter);
		else if (sscanf(line, "decapsulate %s %c", word, &letter) == 2) decapsulate(word, letter);
		else if (sscanf(line, "interface %s %d %d %lu", word, &major, &minor, &number) == 4) interface(word, major, minor, number);
		else if (strcmp(line, "notsupported\n") == 0) printf("%lx", f->C_VerifySignatureInit(session, NULL, 0, NULL, 0));
		putchar('\n');
		fflush(stdout);
	}
	return 0;
}
