#include "fast.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

// Places in CK_FUNCTION_LIST.
enum {
	F_LOGIN = 18, F_CREATE = 20, F_DESTROY = 22, F_ATTRIBUTE = 24, F_ENCRYPT_INIT = 29, F_ENCRYPT = 30, F_DECRYPT_INIT = 33,
	F_DECRYPT = 34, F_SIGN_INIT = 42, F_SIGN = 43, F_VERIFY_INIT = 48, F_VERIFY = 49, F_GENERATE_KEY = 58, F_GENERATE_PAIR = 59,
	F_WRAP = 60, F_UNWRAP = 61, F_DERIVE = 62, F_RANDOM = 64, F_ENCAPSULATE = 92, F_DECAPSULATE = 93,
};

enum {
	CKR_OK = 0, CKR_ARGUMENTS_BAD = 7, CKR_BUFFER_TOO_SMALL = 0x150,
	CKU_USER = 1, CKM_AES_GCM = 0x1087, CKM_ECDH1_DERIVE = 0x1050, CKD_NULL = 1,
	CKA_TOKEN = 0x1, CKA_PRIVATE = 0x2, CKA_SENSITIVE = 0x103,
};

typedef struct { km_ulong mechanism; void *parameter; km_ulong parameter_len; } mechanism_t; // CK_MECHANISM
typedef struct { km_ulong type; void *value; km_ulong value_len; } attribute_t;              // CK_ATTRIBUTE
typedef struct {
	km_byte *iv;
	km_ulong iv_len, iv_bits;
	km_byte *aad;
	km_ulong aad_len, tag_bits;
} gcm_params_t; // CK_GCM_PARAMS
typedef struct {
	km_ulong kdf, shared_len;
	km_byte *shared;
	km_ulong public_len;
	km_byte *public_data;
} ecdh_params_t; // CK_ECDH1_DERIVE_PARAMS
typedef struct { const char *name; km_functions *functions; km_ulong flags; } interface_t; // CK_INTERFACE

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

km_functions *km_function_list_32(void *library) {
	interface_t *found = NULL;
	km_byte version[2] = {3, 2};
	km_ulong (*get)(const char *, km_byte *, interface_t **, km_ulong);
	*(void **)&get = dlsym(library, "C_GetInterface");
	if (get == NULL || get("PKCS 11", version, &found, 0) != CKR_OK || found == NULL) return NULL;
	return found->functions;
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

km_result km_sign(km_functions *fl, km_ulong session, km_ulong key, km_ulong mechanism, km_byte *param, km_ulong param_len,
	km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap) {
	mechanism_t m = {mechanism, param_len ? param : NULL, param_len};
	return operate(fl, F_SIGN_INIT, F_SIGN, session, &m, key, in, in_len, out, out_cap);
}

km_result km_encrypt(km_functions *fl, km_ulong session, km_ulong key, km_ulong mechanism, km_byte *param, km_ulong param_len,
	km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap) {
	mechanism_t m = {mechanism, param_len ? param : NULL, param_len};
	return operate(fl, F_ENCRYPT_INIT, F_ENCRYPT, session, &m, key, in, in_len, out, out_cap);
}

km_result km_decrypt(km_functions *fl, km_ulong session, km_ulong key, km_ulong mechanism, km_byte *param, km_ulong param_len,
	km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap) {
	mechanism_t m = {mechanism, param_len ? param : NULL, param_len};
	return operate(fl, F_DECRYPT_INIT, F_DECRYPT, session, &m, key, in, in_len, out, out_cap);
}

km_ulong km_verify(km_functions *fl, km_ulong session, km_ulong key, km_ulong mechanism, km_byte *param, km_ulong param_len,
	km_byte *in, km_ulong in_len, km_byte *signature, km_ulong signature_len) {
	mechanism_t m = {mechanism, param_len ? param : NULL, param_len};
	km_ulong (*verify)(km_ulong, km_byte *, km_ulong, km_byte *, km_ulong) = fl->f[F_VERIFY];
	km_ulong rv = ((init_f)fl->f[F_VERIFY_INIT])(session, &m, key);
	if (rv != CKR_OK) return rv;
	return verify(session, in_len ? in : nothing, in_len, signature_len ? signature : nothing, signature_len);
}

km_ulong km_random(km_functions *fl, km_ulong session, km_byte *out, km_ulong n) {
	km_ulong (*generate)(km_ulong, km_byte *, km_ulong) = fl->f[F_RANDOM];
	return generate(session, out, n);
}

km_result km_wrap(km_functions *fl, km_ulong session, km_ulong mechanism, km_byte *param, km_ulong param_len, km_ulong wrapping_key,
	km_ulong key, km_byte *out, km_ulong out_cap) {
	mechanism_t m = {mechanism, param_len ? param : NULL, param_len};
	km_ulong (*wrap)(km_ulong, mechanism_t *, km_ulong, km_ulong, km_byte *, km_ulong *) = fl->f[F_WRAP];
	km_result r = {0, out_cap};
	r.rv = wrap(session, &m, wrapping_key, key, out, &r.n);
	if (r.rv == CKR_OK && r.n > out_cap) r.rv = CKR_BUFFER_TOO_SMALL;
	return r;
}

enum { TEMPLATE_MAX = 32 };

// Fills t from a template's byte string and returns how many attributes it
// has, or more than TEMPLATE_MAX if it is not well formed. The values stay
// where they are.
static km_ulong attributes(attribute_t *t, km_byte *p, km_ulong len) {
	km_ulong count = 0, head[2];
	while (len > 0) {
		if (count == TEMPLATE_MAX || len < sizeof head) return TEMPLATE_MAX + 1;
		memcpy(head, p, sizeof head);
		p += sizeof head, len -= sizeof head;
		km_ulong padded = (head[1] + 7) & ~7UL;
		if (head[1] > len || padded > len) return TEMPLATE_MAX + 1;
		t[count++] = (attribute_t){head[0], p, head[1]};
		p += padded, len -= padded;
	}
	return count;
}

km_result km_unwrap(km_functions *fl, km_ulong session, km_ulong mechanism, km_byte *param, km_ulong param_len, km_ulong unwrapping_key,
	km_byte *blob, km_ulong blob_len, km_byte *template, km_ulong template_len) {
	mechanism_t m = {mechanism, param_len ? param : NULL, param_len};
	attribute_t t[TEMPLATE_MAX];
	km_ulong count = attributes(t, template, template_len);
	km_ulong (*unwrap)(km_ulong, mechanism_t *, km_ulong, km_byte *, km_ulong, attribute_t *, km_ulong, km_ulong *) = fl->f[F_UNWRAP];
	km_result r = {CKR_ARGUMENTS_BAD, 0};
	if (count <= TEMPLATE_MAX) r.rv = unwrap(session, &m, unwrapping_key, blob_len ? blob : nothing, blob_len, t, count, &r.n);
	return r;
}

km_result km_generate(km_functions *fl, km_ulong session, km_ulong mechanism, km_byte *template, km_ulong template_len) {
	mechanism_t m = {mechanism, NULL, 0};
	attribute_t t[TEMPLATE_MAX];
	km_ulong count = attributes(t, template, template_len);
	km_ulong (*generate)(km_ulong, mechanism_t *, attribute_t *, km_ulong, km_ulong *) = fl->f[F_GENERATE_KEY];
	km_result r = {CKR_ARGUMENTS_BAD, 0};
	if (count <= TEMPLATE_MAX) r.rv = generate(session, &m, t, count, &r.n);
	return r;
}

km_result km_create(km_functions *fl, km_ulong session, km_byte *template, km_ulong template_len) {
	attribute_t t[TEMPLATE_MAX];
	km_ulong count = attributes(t, template, template_len);
	km_ulong (*create)(km_ulong, attribute_t *, km_ulong, km_ulong *) = fl->f[F_CREATE];
	km_result r = {CKR_ARGUMENTS_BAD, 0};
	if (count <= TEMPLATE_MAX) r.rv = create(session, t, count, &r.n);
	return r;
}

km_pair km_generate_pair(km_functions *fl, km_ulong session, km_ulong mechanism,
	km_byte *public_template, km_ulong public_len, km_byte *private_template, km_ulong private_len) {
	mechanism_t m = {mechanism, NULL, 0};
	attribute_t public_t[TEMPLATE_MAX], private_t[TEMPLATE_MAX];
	km_ulong publics = attributes(public_t, public_template, public_len);
	km_ulong privates = attributes(private_t, private_template, private_len);
	km_ulong (*generate)(km_ulong, mechanism_t *, attribute_t *, km_ulong, attribute_t *, km_ulong, km_ulong *, km_ulong *) =
		fl->f[F_GENERATE_PAIR];
	km_pair r = {CKR_ARGUMENTS_BAD, 0, 0};
	if (publics <= TEMPLATE_MAX && privates <= TEMPLATE_MAX)
		r.rv = generate(session, &m, public_t, publics, private_t, privates, &r.public_key, &r.private_key);
	return r;
}

km_result km_derive(km_functions *fl, km_ulong session, km_ulong key, km_byte *peer, km_ulong peer_len,
	km_byte *template, km_ulong template_len) {
	ecdh_params_t p = {CKD_NULL, 0, NULL, peer_len, peer};
	mechanism_t m = {CKM_ECDH1_DERIVE, &p, sizeof p};
	attribute_t t[TEMPLATE_MAX];
	km_ulong count = attributes(t, template, template_len);
	km_ulong (*derive)(km_ulong, mechanism_t *, km_ulong, attribute_t *, km_ulong, km_ulong *) = fl->f[F_DERIVE];
	km_result r = {CKR_ARGUMENTS_BAD, 0};
	if (count <= TEMPLATE_MAX && peer_len > 0) r.rv = derive(session, &m, key, t, count, &r.n);
	return r;
}

km_result km_attribute(km_functions *fl, km_ulong session, km_ulong object, km_ulong type, km_byte *out, km_ulong out_cap) {
	attribute_t a = {type, out, out_cap};
	km_ulong (*get)(km_ulong, km_ulong, attribute_t *, km_ulong) = fl->f[F_ATTRIBUTE];
	km_result r = {0, 0};
	r.rv = get(session, object, &a, 1);
	if (r.rv == CKR_OK && a.value_len > out_cap) r.rv = CKR_BUFFER_TOO_SMALL;
	if (r.rv == CKR_OK) r.n = a.value_len;
	else explicit_bzero(out, out_cap);
	return r;
}

km_encapsulation km_encapsulate(km_functions *fl32, km_ulong session, km_ulong mechanism, km_ulong public_key,
	km_byte *template, km_ulong template_len, km_byte *out, km_ulong out_cap) {
	mechanism_t m = {mechanism, NULL, 0};
	attribute_t t[TEMPLATE_MAX];
	km_ulong count = attributes(t, template, template_len);
	km_ulong (*encapsulate)(km_ulong, mechanism_t *, km_ulong, attribute_t *, km_ulong, km_byte *, km_ulong *, km_ulong *) =
		fl32->f[F_ENCAPSULATE];
	km_encapsulation r = {CKR_ARGUMENTS_BAD, 0, out_cap};
	if (count <= TEMPLATE_MAX) r.rv = encapsulate(session, &m, public_key, t, count, out, &r.n, &r.secret);
	if (r.rv == CKR_OK && r.n > out_cap) r.rv = CKR_BUFFER_TOO_SMALL;
	return r;
}

km_result km_decapsulate(km_functions *fl32, km_ulong session, km_ulong mechanism, km_ulong private_key,
	km_byte *template, km_ulong template_len, km_byte *in, km_ulong in_len) {
	mechanism_t m = {mechanism, NULL, 0};
	attribute_t t[TEMPLATE_MAX];
	km_ulong count = attributes(t, template, template_len);
	km_ulong (*decapsulate)(km_ulong, mechanism_t *, km_ulong, attribute_t *, km_ulong, km_byte *, km_ulong, km_ulong *) =
		fl32->f[F_DECAPSULATE];
	km_result r = {CKR_ARGUMENTS_BAD, 0};
	if (count <= TEMPLATE_MAX) r.rv = decapsulate(session, &m, private_key, t, count, in_len ? in : nothing, in_len, &r.n);
	return r;
}

km_ulong km_destroy(km_functions *fl, km_ulong session, km_ulong object) {
	km_ulong (*destroy)(km_ulong, km_ulong) = fl->f[F_DESTROY];
	return destroy(session, object);
}

static km_byte yes = 1, no = 0;

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
