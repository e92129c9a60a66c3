#include "fast.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

// Places in CK_FUNCTION_LIST.
enum {
	F_LOGIN = 18, F_DESTROY = 22, F_ENCRYPT_INIT = 29, F_ENCRYPT = 30, F_DECRYPT_INIT = 33, F_DECRYPT = 34,
	F_SIGN_INIT = 42, F_SIGN = 43, F_GENERATE_KEY = 58, F_WRAP = 60, F_UNWRAP = 61, F_RANDOM = 64,
};

enum {
	CKR_OK = 0, CKR_GENERAL_ERROR = 5, CKR_BUFFER_TOO_SMALL = 0x150,
	CKU_USER = 1, CKM_AES_GCM = 0x1087,
	CKA_CLASS = 0x0, CKA_TOKEN = 0x1, CKA_PRIVATE = 0x2, CKA_KEY_TYPE = 0x100, CKA_SENSITIVE = 0x103,
	CKA_ENCRYPT = 0x104, CKA_DECRYPT = 0x105, CKA_WRAP = 0x106, CKA_UNWRAP = 0x107, CKA_SIGN = 0x108,
	CKA_VERIFY = 0x10A, CKA_DERIVE = 0x10C, CKA_VALUE_LEN = 0x161, CKA_EXTRACTABLE = 0x162,
};

typedef struct { km_ulong mechanism; void *parameter; km_ulong parameter_len; } mechanism_t; // CK_MECHANISM
typedef struct { km_ulong type; void *value; km_ulong value_len; } attribute_t;              // CK_ATTRIBUTE
typedef struct {
	km_byte *iv;
	km_ulong iv_len, iv_bits;
	km_byte *aad;
	km_ulong aad_len, tag_bits;
} gcm_params_t; // CK_GCM_PARAMS

typedef km_ulong (*init_f)(km_ulong, mechanism_t *, km_ulong);
typedef km_ulong (*operate_f)(km_ulong, km_byte *, km_ulong, km_byte *, km_ulong *);

// A module may refuse NULL where nothing is to be read.
static km_byte nothing[1];

// maxArenas bounds the heaps that glibc keeps, one for a few threads each. Its
// default of eight a CPU leaves most of what a module frees unused in one or the
// other; a module's own locks are what its threads wait for.
enum { maxArenas = 2 };

void *km_load(const char *path, const char **problem) {
#ifdef __GLIBC__
	mallopt(M_ARENA_MAX, maxArenas);
#endif
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (library == NULL) *problem = dlerror();
	return library;
}

void km_unload(void *library) { dlclose(library); }

km_functions *km_function_list(void *library) {
	km_functions *fl = NULL;
	km_ulong (*get)(km_functions **);
	*(void **)&get = dlsym(library, "C_GetFunctionList");
	if (get == NULL || get(&fl) != CKR_OK) return NULL;
	return fl;
}

km_ulong km_login(km_functions *fl, km_ulong session, km_byte *pin, km_ulong pin_len) {
	km_ulong (*login)(km_ulong, km_ulong, km_byte *, km_ulong) = fl->f[F_LOGIN];
	return login(session, CKU_USER, pin, pin_len);
}

static km_result operate(km_functions *fl, int init, int operation, km_ulong session, mechanism_t *m, km_ulong key,
	km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap) {
	km_result r = {0, out_cap};
	r.rv = ((init_f)fl->f[init])(session, m, key);
	if (r.rv == CKR_OK) r.rv = ((operate_f)fl->f[operation])(session, in_len ? in : nothing, in_len, out, &r.n);
	if (r.rv == CKR_OK && r.n > out_cap) r.rv = CKR_BUFFER_TOO_SMALL; // a module that wrote out of bounds or lies
	if (r.rv != CKR_OK) {
		explicit_bzero(out, out_cap);
		r.n = 0;
	}
	return r;
}

static km_result gcm(km_functions *fl, int init, int operation, km_ulong session, km_ulong key, km_byte *iv, km_ulong iv_len,
	km_byte *aad, km_ulong aad_len, km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap) {
	gcm_params_t p = {iv, iv_len, iv_len * 8, aad_len ? aad : NULL, aad_len, 128};
	mechanism_t m = {CKM_AES_GCM, &p, sizeof p};
	return operate(fl, init, operation, session, &m, key, in, in_len, out, out_cap);
}

km_result km_gcm_encrypt(km_functions *fl, km_ulong session, km_ulong key, km_byte *iv, km_ulong iv_len,
	km_byte *aad, km_ulong aad_len, km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap) {
	return gcm(fl, F_ENCRYPT_INIT, F_ENCRYPT, session, key, iv, iv_len, aad, aad_len, in, in_len, out, out_cap);
}

km_result km_gcm_decrypt(km_functions *fl, km_ulong session, km_ulong key, km_byte *iv, km_ulong iv_len,
	km_byte *aad, km_ulong aad_len, km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap) {
	return gcm(fl, F_DECRYPT_INIT, F_DECRYPT, session, key, iv, iv_len, aad, aad_len, in, in_len, out, out_cap);
}

km_result km_sign(km_functions *fl, km_ulong session, km_ulong key, km_ulong mechanism,
	km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap) {
	mechanism_t m = {mechanism, NULL, 0};
	return operate(fl, F_SIGN_INIT, F_SIGN, session, &m, key, in, in_len, out, out_cap);
}

km_ulong km_random(km_functions *fl, km_ulong session, km_byte *out, km_ulong n) {
	km_ulong (*generate)(km_ulong, km_byte *, km_ulong) = fl->f[F_RANDOM];
	return generate(session, out, n);
}

km_result km_wrap(km_functions *fl, km_ulong session, km_ulong mechanism, km_ulong domain_key, km_ulong key,
	km_byte *out, km_ulong out_cap) {
	mechanism_t m = {mechanism, NULL, 0};
	km_ulong (*wrap)(km_ulong, mechanism_t *, km_ulong, km_ulong, km_byte *, km_ulong *) = fl->f[F_WRAP];
	km_result r = {0, out_cap};
	r.rv = wrap(session, &m, domain_key, key, out, &r.n);
	if (r.rv == CKR_OK && r.n > out_cap) r.rv = CKR_BUFFER_TOO_SMALL;
	return r;
}

static km_byte yes = 1, no = 0;

enum { TEMPLATE_MAX = 14 };

// Fills t with the template of a session object and returns its length. t
// points to object_class, key_type and value_len of the caller.
static km_ulong template_of(attribute_t *t, km_ulong *object_class, km_ulong *key_type, km_ulong may, km_ulong *value_len) {
	km_byte *encrypt = may & KM_ENCRYPT ? &yes : &no, *sign = may & KM_SIGN ? &yes : &no, *wrap = may & KM_WRAP ? &yes : &no;
	const attribute_t all[TEMPLATE_MAX] = {
		{CKA_CLASS, object_class, sizeof *object_class},
		{CKA_KEY_TYPE, key_type, sizeof *key_type},
		{CKA_TOKEN, &no, 1},
		{CKA_PRIVATE, &yes, 1},
		{CKA_SENSITIVE, &yes, 1},
		{CKA_EXTRACTABLE, may & KM_EXTRACTABLE ? &yes : &no, 1},
		{CKA_ENCRYPT, encrypt, 1},
		{CKA_DECRYPT, encrypt, 1},
		{CKA_SIGN, sign, 1},
		{CKA_VERIFY, sign, 1},
		{CKA_WRAP, wrap, 1},
		{CKA_UNWRAP, wrap, 1},
		{CKA_DERIVE, &no, 1},
		{CKA_VALUE_LEN, value_len, sizeof *value_len},
	};
	memcpy(t, all, sizeof all);
	return *value_len ? TEMPLATE_MAX : TEMPLATE_MAX - 1;
}

km_result km_unwrap(km_functions *fl, km_ulong session, km_ulong mechanism, km_ulong domain_key,
	km_byte *blob, km_ulong blob_len, km_ulong object_class, km_ulong key_type, km_ulong may, km_ulong value_len) {
	mechanism_t m = {mechanism, NULL, 0};
	attribute_t t[TEMPLATE_MAX];
	km_ulong count = template_of(t, &object_class, &key_type, may, &value_len);
	km_ulong (*unwrap)(km_ulong, mechanism_t *, km_ulong, km_byte *, km_ulong, attribute_t *, km_ulong, km_ulong *) = fl->f[F_UNWRAP];
	km_result r = {0, 0};
	r.rv = unwrap(session, &m, domain_key, blob_len ? blob : nothing, blob_len, t, count, &r.n);
	return r;
}

km_result km_generate(km_functions *fl, km_ulong session, km_ulong mechanism,
	km_ulong object_class, km_ulong key_type, km_ulong may, km_ulong value_len) {
	mechanism_t m = {mechanism, NULL, 0};
	attribute_t t[TEMPLATE_MAX];
	km_ulong count = template_of(t, &object_class, &key_type, may, &value_len);
	km_ulong (*generate)(km_ulong, mechanism_t *, attribute_t *, km_ulong, km_ulong *) = fl->f[F_GENERATE_KEY];
	km_result r = {0, 0};
	r.rv = generate(session, &m, t, count, &r.n);
	return r;
}

km_ulong km_destroy(km_functions *fl, km_ulong session, km_ulong object) {
	km_ulong (*destroy)(km_ulong, km_ulong) = fl->f[F_DESTROY];
	return destroy(session, object);
}

const void *km_unwrap_template(km_ulong *size) {
	static attribute_t t[] = {
		{CKA_TOKEN, &no, 1},
		{CKA_PRIVATE, &yes, 1},
		{CKA_SENSITIVE, &yes, 1},
	};
	*size = sizeof t;
	return t;
}

km_result km_gcm_encrypt_loop(km_functions *fl, km_ulong session, km_ulong key, km_byte *iv, km_byte *aad, km_ulong aad_len,
	km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap, km_ulong n) {
	km_result r = {0, 0};
	for (km_ulong i = 0; i < n; i++) {
		for (int j = 11; j >= 0 && ++iv[j] == 0; j--) {}
		r = km_gcm_encrypt(fl, session, key, iv, 12, aad, aad_len, in, in_len, out, out_cap);
		if (r.rv != CKR_OK) return r;
	}
	return r;
}
