// A PKCS#11 module that stands in front of another and misbehaves on demand.
// REAL is the path of the module behind it, CONTROL that of a shared file that
// says what to do and counts the calls. Every argument of a PKCS#11 function is
// passed like an unsigned long, and none has more than eight.
#include <dlfcn.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef unsigned long ulong_t;
enum { FUNCTIONS = 68 };
enum { F_INITIALIZE = 0, F_FINALIZE = 1, F_GET_FUNCTION_LIST = 3, F_TOKEN_INFO = 6, F_ENCRYPT_INIT = 29, F_ENCRYPT = 30, F_RANDOM = 64 };
enum { CKR_DEVICE_ERROR = 0x30, CKR_ARGUMENTS_BAD = 7, CKR_MECHANISM_PARAM_INVALID = 0x71, CKM_AES_GCM = 0x1087 };
enum { IV_GIVEN = 0, IV_WRITTEN = 1, IV_APPENDED = 2 };

typedef struct {
	ulong_t calls[FUNCTIONS];  // so far
	ulong_t code[FUNCTIONS];   // to return instead of calling,
	ulong_t times[FUNCTIONS];  // that many times
	ulong_t hang[FUNCTIONS];   // while not zero
	ulong_t dead;              // every call fails until C_Finalize
	ulong_t token_flags;       // to be added to the token's
	ulong_t iv_mode;
} control_t;

typedef struct { unsigned char major, minor; void *f[FUNCTIONS]; } functions_t;
typedef struct { ulong_t mechanism; void *parameter; ulong_t parameter_len; } mechanism_t;
typedef struct { unsigned char *iv; ulong_t iv_len, iv_bits; void *aad; ulong_t aad_len, tag_bits; } gcm_t;
typedef ulong_t (*call_t)(ulong_t, ulong_t, ulong_t, ulong_t, ulong_t, ulong_t, ulong_t, ulong_t);

static functions_t *real, ours;
static control_t *control;
static unsigned char appended_iv[4096][16]; // by session

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)

static ulong_t encrypt_init(ulong_t session, mechanism_t *m, ulong_t key) {
	ulong_t (*init)(ulong_t, mechanism_t *, ulong_t) = real->f[F_ENCRYPT_INIT];
	ulong_t (*random)(ulong_t, unsigned char *, ulong_t) = real->f[F_RANDOM];
	ulong_t mode = LOAD(control->iv_mode);
	if (m->mechanism != CKM_AES_GCM || mode == IV_GIVEN) return init(session, m, key);
	gcm_t *p = m->parameter;
	if (mode == IV_WRITTEN) {
		static const unsigned char zero[12];
		if (p->iv_len != 12 || memcmp(p->iv, zero, 12) != 0) return CKR_MECHANISM_PARAM_INVALID;
		ulong_t rv = random(session, p->iv, 12);
		return rv ? rv : init(session, m, key);
	}
	if (p->iv_len != 0) return CKR_MECHANISM_PARAM_INVALID;
	unsigned char *iv = appended_iv[session % 4096];
	ulong_t rv = random(session, iv, 16);
	if (rv) return rv;
	gcm_t q = *p;
	mechanism_t n = {CKM_AES_GCM, &q, sizeof q};
	q.iv = iv, q.iv_len = 16, q.iv_bits = 128;
	return init(session, &n, key);
}

static ulong_t encrypt(ulong_t session, void *in, ulong_t in_len, unsigned char *out, ulong_t *out_len) {
	ulong_t (*f)(ulong_t, void *, ulong_t, unsigned char *, ulong_t *) = real->f[F_ENCRYPT];
	if (LOAD(control->iv_mode) != IV_APPENDED) return f(session, in, in_len, out, out_len);
	ulong_t room = *out_len, rv = f(session, in, in_len, out, out_len);
	if (rv) return rv;
	if (room < *out_len + 16) return CKR_ARGUMENTS_BAD;
	memcpy(out + *out_len, appended_iv[session % 4096], 16);
	*out_len += 16;
	return 0;
}

static ulong_t pass(int i, ulong_t a, ulong_t b, ulong_t c, ulong_t d, ulong_t e, ulong_t f, ulong_t g, ulong_t h) {
	__atomic_fetch_add(&control->calls[i], 1, __ATOMIC_SEQ_CST);
	while (LOAD(control->hang[i])) usleep(500);
	if (LOAD(control->dead)) {
		if (i != F_FINALIZE) return CKR_DEVICE_ERROR;
		__atomic_store_n(&control->dead, 0, __ATOMIC_SEQ_CST);
	}
	ulong_t left = LOAD(control->times[i]);
	while (left != 0) {
		if (__atomic_compare_exchange_n(&control->times[i], &left, left - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return LOAD(control->code[i]);
	}
	if (i == F_ENCRYPT_INIT) return encrypt_init(a, (mechanism_t *)b, c);
	if (i == F_ENCRYPT) return encrypt(a, (void *)b, c, (unsigned char *)d, (ulong_t *)e);
	ulong_t rv = ((call_t)real->f[i])(a, b, c, d, e, f, g, h);
	// CK_TOKEN_INFO.flags stands behind 32+32+16+16 characters.
	if (i == F_TOKEN_INFO && rv == 0) *(ulong_t *)((char *)b + 96) |= LOAD(control->token_flags);
	return rv;
}

#define W(i) static ulong_t w##i(ulong_t a, ulong_t b, ulong_t c, ulong_t d, ulong_t e, ulong_t f, ulong_t g, ulong_t h) \
	{ return pass(i, a, b, c, d, e, f, g, h); }
#define TEN(X, n) X(n##0) X(n##1) X(n##2) X(n##3) X(n##4) X(n##5) X(n##6) X(n##7) X(n##8) X(n##9)
#define ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) TEN(X, 1) TEN(X, 2) TEN(X, 3) TEN(X, 4) TEN(X, 5) \
	X(60) X(61) X(62) X(63) X(64) X(65) X(66) X(67)
ALL(W)

ulong_t C_GetFunctionList(functions_t **list) {
	if (real == NULL) {
		void *module = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
		int file = open(CONTROL, O_RDWR);
		if (module == NULL || file < 0) return CKR_DEVICE_ERROR;
		control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
		close(file);
		ulong_t (*get)(functions_t **);
		*(void **)&get = dlsym(module, "C_GetFunctionList");
		if (control == MAP_FAILED || get == NULL || get(&real) != 0) return CKR_DEVICE_ERROR;
		ours.major = real->major, ours.minor = real->minor;
#define SET(i) ours.f[i] = w##i;
		ALL(SET)
		ours.f[F_GET_FUNCTION_LIST] = C_GetFunctionList;
	}
	*list = &ours;
	return 0;
}
