// A PKCS#11 v3.2 module that is SoftHSM and, beside it, ML-DSA and ML-KEM. What
// concerns post-quantum keys goes to a server that has them; everything else
// goes to SoftHSM. REAL_MODULE is the path of SoftHSM's module, SOCKET that of the
// server's socket.
#include <dlfcn.h>

#include "wire.h"

enum { FUNCTIONS = 68, FUNCTIONS_32 = 104, FIRST_HANDLE_BIT = 40 };

// Places in CK_FUNCTION_LIST and CK_FUNCTION_LIST_3_2.
enum {
	F_INITIALIZE = 0, F_FINALIZE = 1, F_GET_INFO = 2, F_GET_FUNCTION_LIST = 3, F_MECHANISM_LIST = 7, F_MECHANISM_INFO = 8,
	F_INIT_TOKEN = 9, F_CLOSE_SESSION = 13, F_CLOSE_ALL_SESSIONS = 14, F_SESSION_INFO = 15, F_LOGOUT = 19, F_CREATE = 20, F_COPY = 21,
	F_DESTROY = 22, F_SIZE = 23, F_GET = 24, F_SET = 25, F_FIND_INIT = 26, F_FIND = 27, F_FIND_FINAL = 28, F_SIGN_INIT = 42, F_SIGN = 43,
	F_SIGN_UPDATE = 44, F_SIGN_FINAL = 45, F_VERIFY_INIT = 48, F_VERIFY = 49, F_VERIFY_UPDATE = 50, F_VERIFY_FINAL = 51,
	F_GENERATE_PAIR = 59, F_WRAP = 60, F_UNWRAP = 61, F_RANDOM = 64,
	F_GET_INTERFACE_LIST = 68, F_GET_INTERFACE = 69, F_ENCAPSULATE = 92, F_DECAPSULATE = 93,
};

enum {
	CKA_CLASS = 0, CKA_TOKEN = 1, CKA_PRIVATE = 2, CKA_VALUE = 0x11, CKA_KEY_TYPE = 0x100, CKA_SENSITIVE = 0x103, CKA_WRAP = 0x106,
	CKA_VALUE_LEN = 0x161, CKA_EXTRACTABLE = 0x162,
	CKO_SECRET_KEY = 4, CKK_GENERIC_SECRET = 0x10, CKK_AES = 0x1F, CKK_ML_KEM = 0x49, CKK_ML_DSA = 0x4A,
	CKM_AES_KEY_WRAP_PAD = 0x210A,
};

static const ulong_t unavailable = ~0UL; // CK_UNAVAILABLE_INFORMATION

typedef struct { byte_t major, minor; void *f[FUNCTIONS]; } functions_t;
typedef struct { byte_t major, minor; void *f[FUNCTIONS_32]; } functions_32_t;
typedef struct { const char *name; void *functions; ulong_t flags; } interface_t; // CK_INTERFACE
typedef struct { ulong_t slot, state, flags, device_error; } session_info_t;      // CK_SESSION_INFO
typedef struct { ulong_t min, max, flags; } mechanism_info_t;                     // CK_MECHANISM_INFO
static functions_t *real, ours;
static functions_32_t ours_32;

// Calls SoftHSM; all arguments of all functions are passed like a CK_ULONG.
#define REAL(i, ...) ((ulong_t (*)())real->f[i])(__VA_ARGS__)

// Handles of post-quantum objects are larger than any of SoftHSM's.
static int is_ours(ulong_t handle) { return handle >> FIRST_HANDLE_BIT != 0; }

static int has_our_key_type(const attribute_t *t, ulong_t count) {
	for (ulong_t i = 0; t != NULL && i < count; i++) {
		if (t[i].type != CKA_KEY_TYPE || t[i].value == NULL || t[i].len != sizeof(ulong_t)) continue;
		ulong_t type = *(ulong_t *)t[i].value;
		return type == CKK_ML_DSA || type == CKK_ML_KEM;
	}
	return 0;
}

// What a session is in the middle of. A session belongs to one thread at a time;
// the list of them is for all.
enum { SIGNING, VERIFYING, ACTIVITIES };
typedef struct record {
	struct record *next;
	ulong_t slot, session;
	message_t operation[ACTIVITIES]; // mechanism and key; empty: none
	ulong_t signature_len;
	ulong_t *found; // objects of ours that a search has found
	ulong_t found_count, found_at;
} record_t;

static record_t *records;
static pthread_mutex_t records_lock = PTHREAD_MUTEX_INITIALIZER;

static record_t *find_record(ulong_t session) {
	pthread_mutex_lock(&records_lock);
	record_t *r = records;
	while (r != NULL && r->session != session) r = r->next;
	pthread_mutex_unlock(&records_lock);
	return r;
}

static record_t *make_record(ulong_t slot, ulong_t session) {
	record_t *r = find_record(session);
	if (r != NULL || (r = calloc(1, sizeof *r)) == NULL) return r;
	r->slot = slot, r->session = session;
	pthread_mutex_lock(&records_lock);
	r->next = records, records = r;
	pthread_mutex_unlock(&records_lock);
	return r;
}

// Forgets one session, or all of a slot, or all.
static void forget(const ulong_t *session, const ulong_t *slot) {
	pthread_mutex_lock(&records_lock);
	for (record_t **p = &records; *p != NULL;) {
		record_t *r = *p;
		if ((session != NULL && r->session != *session) || (slot != NULL && r->slot != *slot)) {
			p = &r->next;
			continue;
		}
		*p = r->next;
		for (int i = 0; i < ACTIVITIES; i++) drop(&r->operation[i]);
		free(r->found);
		free(r);
	}
	pthread_mutex_unlock(&records_lock);
}

// Begins a request of a session, whose state SoftHSM knows.
static ulong_t begin(message_t *m, ulong_t operation, ulong_t session, session_info_t *info) {
	memset(m, 0, sizeof *m);
	memset(info, 0, sizeof *info);
	ulong_t rv = REAL(F_SESSION_INFO, session, info);
	put_ulong(m, operation);
	put_ulong(m, info->slot);
	put_ulong(m, session);
	put_ulong(m, info->state);
	return rv;
}

// A request that has no session and is about a slot.
static ulong_t tell(ulong_t operation, ulong_t slot, ulong_t session) {
	message_t m = {0};
	put_ulong(&m, operation);
	put_ulong(&m, slot);
	put_ulong(&m, session);
	put_ulong(&m, 0);
	ulong_t rv = ask(&m);
	drop(&m);
	return rv;
}

static ulong_t initialize(void *arguments) {
	ulong_t rv = REAL(F_INITIALIZE, arguments);
	if (rv != CKR_OK) return rv;
	rv = dial();
	if (rv != CKR_OK) REAL(F_FINALIZE, NULL);
	return rv;
}

static ulong_t finalize(void *reserved) {
	ulong_t rv = REAL(F_FINALIZE, reserved);
	if (rv != CKR_OK) return rv;
	forget(NULL, NULL);
	hang_up();
	return CKR_OK;
}

static ulong_t get_info(byte_t *info) {
	ulong_t rv = REAL(F_GET_INFO, info);
	if (rv != CKR_OK) return rv;
	info[0] = 3, info[1] = 2; // cryptokiVersion
	memcpy(info + 48, "SoftHSM with ML-DSA and ML-KEM  ", 32); // libraryDescription
	return CKR_OK;
}

static ulong_t init_token(ulong_t slot, byte_t *pin, ulong_t pin_len, byte_t *label) {
	ulong_t rv = REAL(F_INIT_TOKEN, slot, pin, pin_len, label);
	return rv != CKR_OK ? rv : tell(OP_INIT_TOKEN, slot, 0);
}

static ulong_t close_session(ulong_t session) {
	session_info_t info = {0};
	REAL(F_SESSION_INFO, session, &info);
	ulong_t rv = REAL(F_CLOSE_SESSION, session);
	if (rv != CKR_OK) return rv;
	forget(&session, NULL);
	return tell(OP_CLOSE_SESSION, info.slot, session);
}

static ulong_t close_all_sessions(ulong_t slot) {
	ulong_t rv = REAL(F_CLOSE_ALL_SESSIONS, slot);
	if (rv != CKR_OK) return rv;
	forget(NULL, &slot);
	return tell(OP_CLOSE_SLOT, slot, 0);
}

static ulong_t logout(ulong_t session) {
	session_info_t info = {0};
	REAL(F_SESSION_INFO, session, &info);
	ulong_t rv = REAL(F_LOGOUT, session);
	return rv != CKR_OK ? rv : tell(OP_LOGOUT, info.slot, session);
}

// Asks for our mechanisms: their number, and of each its type and CK_MECHANISM_INFO.
static ulong_t ask_mechanisms(message_t *m, ulong_t *count) {
	put_ulong(m, OP_MECHANISMS);
	for (int i = 0; i < 3; i++) put_ulong(m, 0);
	ulong_t rv = ask(m);
	*count = rv == CKR_OK ? take_ulong(m) : 0;
	return rv;
}

static ulong_t mechanism_list(ulong_t slot, ulong_t *list, ulong_t *count) {
	if (count == NULL) return CKR_ARGUMENTS_BAD;
	message_t m = {0};
	ulong_t theirs = 0, mine = 0, cap = *count;
	ulong_t rv = REAL(F_MECHANISM_LIST, slot, NULL, &theirs);
	if (rv == CKR_OK) rv = ask_mechanisms(&m, &mine);
	if (rv == CKR_OK) {
		*count = theirs + mine;
		if (list != NULL) rv = cap < *count ? CKR_BUFFER_TOO_SMALL : REAL(F_MECHANISM_LIST, slot, list, &theirs);
	}
	for (ulong_t i = 0; rv == CKR_OK && list != NULL && i < mine; i++) {
		list[theirs + i] = take_ulong(&m);
		for (int j = 0; j < 3; j++) take_ulong(&m);
	}
	drop(&m);
	return rv;
}

static ulong_t mechanism_info(ulong_t slot, ulong_t type, mechanism_info_t *info) {
	if (info == NULL) return CKR_ARGUMENTS_BAD;
	message_t m = {0};
	ulong_t theirs = 0, mine = 0;
	ulong_t rv = REAL(F_MECHANISM_LIST, slot, NULL, &theirs);
	if (rv == CKR_OK) rv = ask_mechanisms(&m, &mine);
	int found = 0;
	for (ulong_t i = 0; rv == CKR_OK && i < mine && !found; i++) {
		found = take_ulong(&m) == type;
		mechanism_info_t one;
		one.min = take_ulong(&m), one.max = take_ulong(&m), one.flags = take_ulong(&m);
		if (found) *info = one;
	}
	drop(&m);
	return rv != CKR_OK || found ? rv : REAL(F_MECHANISM_INFO, slot, type, info);
}

static ulong_t create_object(ulong_t session, attribute_t *t, ulong_t count, ulong_t *object) {
	if (!has_our_key_type(t, count)) return REAL(F_CREATE, session, t, count, object);
	message_t m;
	session_info_t info;
	ulong_t rv = begin(&m, OP_CREATE, session, &info);
	put_template(&m, t, count);
	if (rv == CKR_OK) rv = ask(&m);
	if (rv == CKR_OK) *object = take_ulong(&m);
	drop(&m);
	return rv;
}

static ulong_t copy_object(ulong_t session, ulong_t object, attribute_t *t, ulong_t count, ulong_t *copy) {
	return is_ours(object) ? CKR_ACTION_PROHIBITED : REAL(F_COPY, session, object, t, count, copy);
}

static ulong_t object_size(ulong_t session, ulong_t object, ulong_t *size) {
	return is_ours(object) ? CKR_INFORMATION_SENSITIVE : REAL(F_SIZE, session, object, size);
}

static ulong_t destroy_object(ulong_t session, ulong_t object) {
	if (!is_ours(object)) return REAL(F_DESTROY, session, object);
	message_t m;
	session_info_t info;
	ulong_t rv = begin(&m, OP_DESTROY, session, &info);
	put_ulong(&m, object);
	if (rv == CKR_OK) rv = ask(&m);
	drop(&m);
	return rv;
}

static ulong_t set_attributes(ulong_t session, ulong_t object, attribute_t *t, ulong_t count) {
	if (!is_ours(object)) return REAL(F_SET, session, object, t, count);
	message_t m;
	session_info_t info;
	ulong_t rv = begin(&m, OP_SET, session, &info);
	put_ulong(&m, object);
	put_template(&m, t, count);
	if (rv == CKR_OK) rv = ask(&m);
	drop(&m);
	return rv;
}

// Writes one attribute as C_GetAttributeValue does (PKCS#11 v3.2, section 5.7).
static ulong_t give_attribute(message_t *m, attribute_t *a) {
	ulong_t n, rv = take_ulong(m);
	byte_t *value = take_bytes(m, &n);
	if (rv == CKR_OK && a->value != NULL && a->len < n) rv = CKR_BUFFER_TOO_SMALL;
	if (rv == CKR_OK && a->value != NULL) memcpy(a->value, value, n);
	a->len = rv == CKR_OK ? n : unavailable;
	return rv;
}

static ulong_t get_attributes(ulong_t session, ulong_t object, attribute_t *t, ulong_t count) {
	if (!is_ours(object)) return REAL(F_GET, session, object, t, count);
	if (t == NULL && count > 0) return CKR_ARGUMENTS_BAD;
	message_t m;
	session_info_t info;
	ulong_t rv = begin(&m, OP_GET, session, &info);
	put_ulong(&m, object);
	put_ulong(&m, count);
	for (ulong_t i = 0; i < count; i++) put_ulong(&m, t[i].type);
	if (rv == CKR_OK) rv = ask(&m);
	if (rv == CKR_OK) {
		for (ulong_t i = 0; i < count; i++) {
			ulong_t one = give_attribute(&m, &t[i]);
			if (one != CKR_OK) rv = one;
		}
		if (m.rv != CKR_OK) rv = m.rv;
	}
	drop(&m);
	return rv;
}

// Keeps what the server has found for C_FindObjects.
static ulong_t keep_found(record_t *r, message_t *m) {
	free(r->found);
	r->found_at = 0, r->found_count = take_ulong(m);
	r->found = calloc(r->found_count + 1, sizeof *r->found);
	if (r->found == NULL) return CKR_HOST_MEMORY;
	for (ulong_t i = 0; i < r->found_count; i++) r->found[i] = take_ulong(m);
	return m->rv;
}

static ulong_t find_init(ulong_t session, attribute_t *t, ulong_t count) {
	ulong_t rv = REAL(F_FIND_INIT, session, t, count);
	if (rv != CKR_OK) return rv;
	message_t m;
	session_info_t info;
	rv = begin(&m, OP_FIND, session, &info);
	put_template(&m, t, count);
	if (rv == CKR_OK) rv = ask(&m);
	if (rv == CKR_OK) {
		record_t *r = make_record(info.slot, session);
		rv = r == NULL ? CKR_HOST_MEMORY : keep_found(r, &m);
	}
	if (rv != CKR_OK) REAL(F_FIND_FINAL, session);
	drop(&m);
	return rv;
}

static ulong_t find(ulong_t session, ulong_t *objects, ulong_t max, ulong_t *count) {
	ulong_t rv = REAL(F_FIND, session, objects, max, count);
	record_t *r = find_record(session);
	if (rv != CKR_OK || r == NULL) return rv;
	while (*count < max && r->found_at < r->found_count) objects[(*count)++] = r->found[r->found_at++];
	return CKR_OK;
}

static ulong_t find_final(ulong_t session) {
	ulong_t rv = REAL(F_FIND_FINAL, session);
	record_t *r = find_record(session);
	if (rv == CKR_OK && r != NULL) r->found_count = r->found_at = 0;
	return rv;
}

#include "operations.h"

static ulong_t unsupported(void) { return CKR_FUNCTION_NOT_SUPPORTED; }

ulong_t C_GetFunctionList(functions_t **list);
ulong_t C_GetInterfaceList(interface_t *list, ulong_t *count);
ulong_t C_GetInterface(const char *name, byte_t *version, interface_t **found, ulong_t flags);

// What we do instead of SoftHSM.
static const struct { int place; void *f; } replaced[] = {
	{F_INITIALIZE, initialize}, {F_FINALIZE, finalize}, {F_GET_INFO, get_info}, {F_GET_FUNCTION_LIST, C_GetFunctionList},
	{F_MECHANISM_LIST, mechanism_list}, {F_MECHANISM_INFO, mechanism_info}, {F_INIT_TOKEN, init_token},
	{F_CLOSE_SESSION, close_session}, {F_CLOSE_ALL_SESSIONS, close_all_sessions}, {F_LOGOUT, logout},
	{F_CREATE, create_object}, {F_COPY, copy_object}, {F_DESTROY, destroy_object}, {F_SIZE, object_size}, {F_GET, get_attributes},
	{F_SET, set_attributes}, {F_FIND_INIT, find_init}, {F_FIND, find}, {F_FIND_FINAL, find_final},
	{F_SIGN_INIT, sign_init}, {F_SIGN, sign}, {F_SIGN_UPDATE, sign_update}, {F_SIGN_FINAL, sign_final},
	{F_VERIFY_INIT, verify_init}, {F_VERIFY, verify}, {F_VERIFY_UPDATE, verify_update}, {F_VERIFY_FINAL, verify_final},
	{F_GENERATE_PAIR, generate_pair}, {F_WRAP, wrap_key}, {F_UNWRAP, unwrap_key},
};

static pthread_once_t loaded = PTHREAD_ONCE_INIT;

static void load(void) {
	functions_t *found = NULL;
	ulong_t (*get)(functions_t **) = NULL;
	void *module = dlopen(REAL_MODULE, RTLD_NOW | RTLD_LOCAL);
	if (module != NULL) *(void **)&get = dlsym(module, "C_GetFunctionList");
	if (get == NULL || get(&found) != CKR_OK) return;
	ours = *found;
	for (size_t i = 0; i < sizeof replaced / sizeof *replaced; i++) ours.f[replaced[i].place] = replaced[i].f;
	ours_32.major = 3, ours_32.minor = 2;
	memcpy(ours_32.f, ours.f, sizeof ours.f);
	for (int i = FUNCTIONS; i < FUNCTIONS_32; i++) ours_32.f[i] = unsupported;
	ours_32.f[F_GET_INTERFACE_LIST] = C_GetInterfaceList;
	ours_32.f[F_GET_INTERFACE] = C_GetInterface;
	ours_32.f[F_ENCAPSULATE] = encapsulate;
	ours_32.f[F_DECAPSULATE] = decapsulate;
	real = found;
}

ulong_t C_GetFunctionList(functions_t **list) {
	pthread_once(&loaded, load);
	if (real == NULL) return CKR_DEVICE_ERROR;
	if (list == NULL) return CKR_ARGUMENTS_BAD;
	*list = &ours;
	return CKR_OK;
}

// The first is what is given to who asks for no version.
static interface_t interfaces[] = {{"PKCS 11", &ours_32, 0}, {"PKCS 11", &ours, 0}};
enum { INTERFACES = sizeof interfaces / sizeof *interfaces };

ulong_t C_GetInterfaceList(interface_t *list, ulong_t *count) {
	pthread_once(&loaded, load);
	if (real == NULL) return CKR_DEVICE_ERROR;
	if (count == NULL) return CKR_ARGUMENTS_BAD;
	ulong_t cap = *count;
	*count = INTERFACES;
	if (list == NULL) return CKR_OK;
	if (cap < INTERFACES) return CKR_BUFFER_TOO_SMALL;
	memcpy(list, interfaces, sizeof interfaces);
	return CKR_OK;
}

ulong_t C_GetInterface(const char *name, byte_t *version, interface_t **found, ulong_t flags) {
	pthread_once(&loaded, load);
	if (real == NULL) return CKR_DEVICE_ERROR;
	if (found == NULL) return CKR_ARGUMENTS_BAD;
	for (int i = 0; i < INTERFACES; i++) {
		const functions_t *f = interfaces[i].functions;
		if (name != NULL && strcmp(name, interfaces[i].name) != 0) continue;
		if (version != NULL && (version[0] != f->major || version[1] != f->minor)) continue;
		if ((interfaces[i].flags & flags) != flags) continue;
		*found = &interfaces[i];
		return CKR_OK;
	}
	return CKR_ARGUMENTS_BAD;
}
