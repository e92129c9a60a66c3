// A PKCS#11 module that stands in front of another and misbehaves on demand.
// REAL is the path of the module behind it, CONTROL that of a shared file that
// says what to do and counts the calls; softhsm/shim.go writes it. All functions
// of PKCS#11 v2.40 pass through here. Every argument of one is passed like an
// unsigned long, and none has more than eight.
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef unsigned long word;
enum { FUNCTIONS = 68, SESSIONS = 8192 };
enum {
	F_FINALIZE = 1, F_GET_FUNCTION_LIST = 3, F_SLOT_LIST = 4, F_SLOT_INFO = 5, F_TOKEN_INFO = 6, F_MECHANISMS = 7, F_MECHANISM = 8,
	F_INIT_TOKEN = 9, F_INIT_PIN = 10, F_OPEN = 12, F_CLOSE = 13, F_CLOSE_ALL = 14, F_SESSION_INFO = 15, F_LOGIN = 18, F_LOGOUT = 19,
	F_CREATE = 20, F_COPY = 21, F_ATTRIBUTES = 24, F_FIND = 27, F_ENCRYPT_INIT = 29, F_ENCRYPT = 30, F_DECRYPT = 34, F_DIGEST = 38,
	F_SIGN = 43, F_GENERATE_KEY = 58, F_GENERATE_PAIR = 59, F_WRAP = 60, F_UNWRAP = 61, F_DERIVE = 62, F_RANDOM = 64, F_WAIT = 67,
};
enum {
	CKR_OK = 0, CKR_GENERAL_ERROR = 5, CKR_ARGUMENTS_BAD = 7, CKR_DEVICE_ERROR = 0x30, CKR_DEVICE_REMOVED = 0x32, CKR_NOT_SUPPORTED = 0x54,
	CKR_BUFFER_TOO_SMALL = 0x150,
	CKR_MECHANISM_PARAM_INVALID = 0x71, CKR_TOKEN_NOT_PRESENT = 0xE0, CKR_USER_NOT_LOGGED_IN = 0x101, CKM_AES_GCM = 0x1087,
};
enum { IV_GIVEN = 0, IV_WRITTEN = 1, IV_APPENDED = 2 };
enum { LENGTH_SHORT = 1, LENGTH_LONG = 2, LENGTH_ZERO = 3, LENGTH_HUGE = 4 };
enum { CORRUPT_FLIP = 1, CORRUPT_ZEROS = 2, CORRUPT_CONSTANT = 3 };
#define ALL_SLOTS (~0UL)
#define FOREVER (~0UL)

// What happens to calls of a function.
typedef struct {
	word times;         // how many calls it still happens to, or FOREVER
	word every, seen;   // to one in so many of those that it concerns; how many there were
	word slot, session; // if not zero, it concerns only these
	word code, after;   // is returned; after the call was made, if that is set
	word delay;         // microseconds before the call
	word signal;        // for the process
	word length;        // what becomes of the output's length
	word corrupt;       // and of the output
} fault_t;

typedef struct {
	word size;             // of this structure
	word calls[FUNCTIONS]; // so far
	word hang[FUNCTIONS];  // while not zero
	fault_t faults[FUNCTIONS];
	word dead;             // every call fails until C_Finalize
	word token_flags;      // to be added to the token's
	word iv_mode;
	word latency;          // microseconds of every call
	word limit, most;      // concurrent calls: how many there may be, zero for any; how many there were at most
	word drops, logouts;   // how often all sessions were dropped, the login lost
	word removed;          // the slot without its token, or ALL_SLOTS
	word renumbered;       // what is added to the numbers of slots
	word sessions;         // open now
	word firmware, hidden; // what is added to the firmware's minor version; a mechanism that is not listed
} control_t;

typedef struct { unsigned char major, minor; void *f[FUNCTIONS]; } functions_t;
typedef struct { word mechanism; void *parameter; word parameter_len; } mechanism_t;
typedef struct { unsigned char *iv; word iv_len, iv_bits; void *aad; word aad_len, tag_bits; } gcm_t;
typedef struct { word type; unsigned char *value; word len; } attribute_t;
typedef struct { word slot, state, flags, error; } session_info_t;
typedef word (*call_t)(word, word, word, word, word, word, word, word);

static void *module;
static functions_t *real, ours;
static control_t *control;
static unsigned char appended_iv[SESSIONS][16]; // by session

// Of this process. The gate is held for reading by calls of the module behind,
// and for writing by what must happen while there are none.
static pthread_rwlock_t gate;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t returned = PTHREAD_COND_INITIALIZER;
static word inside, drops, logouts, removed, logged_out;
static struct { word session, slot; } sessions[SESSIONS]; // open ones; guarded by the mutex

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define STORE(x, v) __atomic_store_n(&(x), v, __ATOMIC_SEQ_CST)
#define ADD(x, v) __atomic_fetch_add(&(x), v, __ATOMIC_SEQ_CST)
#define REAL_CALL(i, ...) ((word (*)())real->f[i])(__VA_ARGS__)

// Where a function leaves its output.
enum { NOWHERE, BYTES, HANDLES, HANDLE, FIXED, TEMPLATE };
static const struct { unsigned char kind, out, len; } outputs[FUNCTIONS] = {
	[F_OPEN] = {HANDLE, 4}, [F_CREATE] = {HANDLE, 3}, [F_COPY] = {HANDLE, 4}, [F_GENERATE_KEY] = {HANDLE, 4},
	[F_GENERATE_PAIR] = {HANDLE, 7}, [F_UNWRAP] = {HANDLE, 7}, [F_DERIVE] = {HANDLE, 5},
	[F_SLOT_LIST] = {HANDLES, 1, 2}, [F_FIND] = {HANDLES, 1, 3}, [F_RANDOM] = {FIXED, 1, 2}, [F_ATTRIBUTES] = {TEMPLATE, 2, 3},
	[F_ENCRYPT] = {BYTES, 3, 4}, [F_ENCRYPT + 1] = {BYTES, 3, 4}, [F_ENCRYPT + 2] = {BYTES, 1, 2},
	[F_DECRYPT] = {BYTES, 3, 4}, [F_DECRYPT + 1] = {BYTES, 3, 4}, [F_DECRYPT + 2] = {BYTES, 1, 2},
	[F_DIGEST] = {BYTES, 3, 4}, [F_SIGN] = {BYTES, 3, 4}, [F_SIGN + 2] = {BYTES, 1, 2}, [F_WRAP] = {BYTES, 4, 5},
};

static word shorten(word how, word len, word room) {
	switch (how) {
	case LENGTH_SHORT: return len ? len - 1 : 0;
	case LENGTH_LONG: return len + 1;
	case LENGTH_ZERO: return 0;
	case LENGTH_HUGE: return room + 1;
	}
	return len;
}

static void spoil(word how, unsigned char *out, word len) {
	if (out == NULL || len == 0) return;
	switch (how) {
	case CORRUPT_FLIP: out[len / 2] ^= 1; break;
	case CORRUPT_ZEROS: memset(out, 0, len); break;
	case CORRUPT_CONSTANT: memset(out, 0xA5, len); break;
	}
}

static void damage(int i, const fault_t *f, const word *a, word room) {
	unsigned char *out = (unsigned char *)a[outputs[i].out];
	word *len = (word *)a[outputs[i].len];
	attribute_t *t = (attribute_t *)out;
	switch (outputs[i].kind) {
	case BYTES:
		spoil(f->corrupt, out, *len);
		*len = shorten(f->length, *len, room);
		break;
	case HANDLES:
		spoil(f->corrupt, out, *len * sizeof(word));
		*len = shorten(f->length, *len, room);
		break;
	case HANDLE:
		spoil(f->corrupt, out, sizeof(word));
		break;
	case FIXED:
		spoil(f->corrupt, out, a[outputs[i].len]);
		break;
	case TEMPLATE:
		for (word n = 0; n < a[outputs[i].len]; n++) {
			spoil(f->corrupt, t[n].value, t[n].len);
			t[n].len = shorten(f->length, t[n].len, t[n].len);
		}
	}
}

static int takes_slot(int i) { return (i >= F_SLOT_INFO && i <= F_INIT_TOKEN) || i == F_OPEN || i == F_CLOSE_ALL; }
static int takes_session(int i) { return i >= F_INIT_PIN && i < F_WAIT && i != F_OPEN && i != F_CLOSE_ALL; }

// Notes that a session is open on a slot, or, without one, that it is not. A
// session of zero stands for all of the slot, or of all slots.
static void note(word session, word slot, int open) {
	pthread_mutex_lock(&mutex);
	for (int n = 0; n < SESSIONS; n++) {
		if (open && sessions[n].session == 0) {
			sessions[n].session = session, sessions[n].slot = slot;
			ADD(control->sessions, 1);
			break;
		}
		if (open || sessions[n].session == 0) continue;
		if (session ? sessions[n].session != session : slot != ALL_SLOTS && sessions[n].slot != slot) continue;
		sessions[n].session = 0;
		ADD(control->sessions, -1);
		if (session) break;
	}
	pthread_mutex_unlock(&mutex);
}

static word slot_of(word session) {
	session_info_t info = {0};
	REAL_CALL(F_SESSION_INFO, session, &info);
	return info.slot;
}

// Tells whether the fault happens to this call, and counts it. Outputs are not
// spoilt that a call has not room for because it only asks for their size.
static int befalls(int i, fault_t *f, word first, int asks_size) {
	word left = LOAD(f->times), slot = LOAD(f->slot), session = LOAD(f->session), every = LOAD(f->every);
	if (left == 0 || (session && session != first)) return 0;
	if (asks_size && (LOAD(f->length) || LOAD(f->corrupt))) return 0;
	if (slot && slot != (takes_session(i) ? slot_of(first) : first)) return 0;
	if (every > 1 && ADD(f->seen, 1) % every != every - 1) return 0;
	while (left != 0 && left != FOREVER)
		if (__atomic_compare_exchange_n(&f->times, &left, left - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return 1;
	return left == FOREVER;
}

// Logs out, or closes all sessions, of one slot or all.
static void each_slot(int logout, word only) {
	for (int n = 0; n < SESSIONS; n++) {
		word session = sessions[n].session, slot = sessions[n].slot;
		if (session == 0 || (only != ALL_SLOTS && only != slot)) continue;
		if (logout) REAL_CALL(F_LOGOUT, session);
		else REAL_CALL(F_CLOSE_ALL, slot), note(0, slot, 0);
	}
}

// Does what has been ordered since the last call, while nobody is in the module.
static void obey(void) {
	if (LOAD(control->drops) == LOAD(drops) && LOAD(control->logouts) == LOAD(logouts) && LOAD(control->removed) == LOAD(removed)) return;
	pthread_rwlock_wrlock(&gate);
	if (drops != LOAD(control->drops)) each_slot(0, ALL_SLOTS);
	if (logouts != LOAD(control->logouts)) each_slot(1, ALL_SLOTS), STORE(logged_out, 1);
	if (removed != LOAD(control->removed) && LOAD(control->removed)) each_slot(0, LOAD(control->removed));
	STORE(drops, LOAD(control->drops));
	STORE(logouts, LOAD(control->logouts));
	STORE(removed, LOAD(control->removed));
	pthread_rwlock_unlock(&gate);
}

static void enter(void) {
	pthread_mutex_lock(&mutex);
	while (LOAD(control->limit) && inside >= LOAD(control->limit)) pthread_cond_wait(&returned, &mutex);
	inside++;
	if (inside > LOAD(control->most)) STORE(control->most, inside);
	pthread_mutex_unlock(&mutex);
}

static void leave(void) {
	pthread_mutex_lock(&mutex);
	inside--;
	pthread_cond_broadcast(&returned);
	pthread_mutex_unlock(&mutex);
}

static word encrypt_init(word session, mechanism_t *m, word key) {
	word mode = LOAD(control->iv_mode);
	if (m->mechanism != CKM_AES_GCM || mode == IV_GIVEN) return REAL_CALL(F_ENCRYPT_INIT, session, m, key);
	gcm_t *p = m->parameter;
	if (mode == IV_WRITTEN) {
		static const unsigned char zero[12];
		if (p->iv_len != 12 || memcmp(p->iv, zero, 12) != 0) return CKR_MECHANISM_PARAM_INVALID;
		word rv = REAL_CALL(F_RANDOM, session, p->iv, 12UL);
		return rv ? rv : REAL_CALL(F_ENCRYPT_INIT, session, m, key);
	}
	if (p->iv_len != 0) return CKR_MECHANISM_PARAM_INVALID;
	unsigned char *iv = appended_iv[session % SESSIONS];
	word rv = REAL_CALL(F_RANDOM, session, iv, 16UL);
	if (rv) return rv;
	gcm_t q = *p;
	mechanism_t n = {CKM_AES_GCM, &q, sizeof q};
	q.iv = iv, q.iv_len = 16, q.iv_bits = 128;
	return REAL_CALL(F_ENCRYPT_INIT, session, &n, key);
}

static word encrypt(word session, void *in, word in_len, unsigned char *out, word *out_len) {
	word room = *out_len, rv = REAL_CALL(F_ENCRYPT, session, in, in_len, out, out_len);
	if (rv || LOAD(control->iv_mode) != IV_APPENDED) return rv;
	if (room < *out_len + 16) return CKR_ARGUMENTS_BAD;
	memcpy(out + *out_len, appended_iv[session % SESSIONS], 16);
	*out_len += 16;
	return CKR_OK;
}

// C_GetSlotList without the slots that have no token at present, and with the new numbers of the others.
static word slot_list(word a, word *slots, word *count) {
	word all[SESSIONS], n = SESSIONS, kept = 0, gone = LOAD(control->removed), tokens_only = a & 0xFF;
	word rv = REAL_CALL(F_SLOT_LIST, a, all, &n);
	if (rv != CKR_OK) return rv;
	for (word i = 0; i < n; i++)
		if (!tokens_only || !gone || (gone != ALL_SLOTS && gone != all[i])) all[kept++] = all[i] + LOAD(control->renumbered);
	word room = *count;
	*count = kept;
	if (slots == NULL) return CKR_OK;
	if (room < kept) return CKR_BUFFER_TOO_SMALL;
	memcpy(slots, all, kept * sizeof(word));
	return CKR_OK;
}

// C_GetMechanismList without the mechanism that is hidden.
static word mechanisms(word slot, word *list, word *count) {
	word all[SESSIONS], n = SESSIONS, kept = 0;
	word rv = REAL_CALL(F_MECHANISMS, slot, all, &n);
	if (rv != CKR_OK) return rv;
	for (word i = 0; i < n; i++)
		if (all[i] != LOAD(control->hidden)) all[kept++] = all[i];
	word room = *count;
	*count = kept;
	if (list == NULL) return CKR_OK;
	if (room < kept) return CKR_BUFFER_TOO_SMALL;
	memcpy(list, all, kept * sizeof(word));
	return CKR_OK;
}

// Calls the module behind, and notes what it did.
static word forward(int i, word *a) {
	if (takes_slot(i)) {
		a[0] -= LOAD(control->renumbered);
		word gone = LOAD(control->removed);
		if (i != F_SLOT_INFO && (gone == ALL_SLOTS || (gone && gone == a[0]))) return CKR_TOKEN_NOT_PRESENT;
	}
	if (takes_session(i) && LOAD(control->removed) == ALL_SLOTS) return CKR_DEVICE_REMOVED;
	if (i >= F_CREATE && i < F_RANDOM && LOAD(logged_out)) return CKR_USER_NOT_LOGGED_IN;
	if (i == F_ENCRYPT_INIT) return encrypt_init(a[0], (mechanism_t *)a[1], a[2]);
	if (i == F_SLOT_LIST) return slot_list(a[0], (word *)a[1], (word *)a[2]);
	if (i == F_MECHANISMS && LOAD(control->hidden)) return mechanisms(a[0], (word *)a[1], (word *)a[2]);
	if (i == F_ENCRYPT) return encrypt(a[0], (void *)a[1], a[2], (unsigned char *)a[3], (word *)a[4]);
	word rv = ((call_t)real->f[i])(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
	if (rv != CKR_OK) return rv;
	switch (i) {
	case F_FINALIZE: note(0, ALL_SLOTS, 0); break;
	case F_OPEN: note(*(word *)a[4], a[0], 1); break;
	case F_CLOSE: note(a[0], 0, 0); break;
	case F_CLOSE_ALL: note(0, a[0], 0); break;
	case F_LOGIN: STORE(logged_out, 0); break;
	case F_SESSION_INFO: ((session_info_t *)a[1])->slot += LOAD(control->renumbered); break;
	case F_TOKEN_INFO:
		*(word *)((char *)a[1] + 96) |= LOAD(control->token_flags); // behind 32+32+16+16 characters
		((unsigned char *)a[1])[187] += LOAD(control->firmware);     // and behind ten numbers and another version
	}
	return rv;
}

static void die(int signal) {
	int *volatile nowhere = NULL;
	if (signal == SIGSEGV) *nowhere = 0; // as a faulty module does it
	kill(getpid(), signal);
	pause();
}

static word pass_inside(int i, word *a) {
	if (LOAD(control->latency)) usleep(LOAD(control->latency));
	while (LOAD(control->hang[i])) usleep(500);
	if (LOAD(control->dead)) {
		if (i != F_FINALIZE) return CKR_DEVICE_ERROR;
		STORE(control->dead, 0);
	}
	obey();
	fault_t f = {0};
	int counted = outputs[i].kind == BYTES || outputs[i].kind == HANDLES;
	int asks_size = counted && a[outputs[i].out] == 0;
	if (befalls(i, &control->faults[i], a[0], asks_size)) f = control->faults[i];
	if (f.signal) die((int)f.signal);
	if (f.delay) usleep(f.delay);
	if (f.code && !f.after) return f.code;
	word room = counted && !asks_size ? *(word *)a[outputs[i].len] : 0;
	pthread_rwlock_rdlock(&gate);
	word rv = forward(i, a);
	pthread_rwlock_unlock(&gate);
	if (rv == CKR_OK && !asks_size && (f.length || f.corrupt)) damage(i, &f, a, room);
	return f.code ? f.code : rv;
}

static word pass(int i, word a, word b, word c, word d, word e, word f, word g, word h) {
	word arguments[] = {a, b, c, d, e, f, g, h};
	ADD(control->calls[i], 1);
	enter();
	word rv = pass_inside(i, arguments);
	leave();
	return rv;
}

#define W(i) static word w##i(word a, word b, word c, word d, word e, word f, word g, word h) { return pass(i, a, b, c, d, e, f, g, h); }
#define TEN(X, n) X(n##0) X(n##1) X(n##2) X(n##3) X(n##4) X(n##5) X(n##6) X(n##7) X(n##8) X(n##9)
#define ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) TEN(X, 1) TEN(X, 2) TEN(X, 3) TEN(X, 4) TEN(X, 5) \
	X(60) X(61) X(62) X(63) X(64) X(65) X(66) X(67)
ALL(W)

static word refuse(const char *problem, const char *what) {
	fprintf(stderr, "shim: %s: %s\n", what, problem);
	return CKR_GENERAL_ERROR;
}

static void *map_control(void) {
	struct stat info;
	void *mapped = MAP_FAILED;
	int file = open(CONTROL, O_RDWR);
	if (file >= 0 && fstat(file, &info) == 0 && info.st_size == sizeof(control_t))
		mapped = mmap(NULL, sizeof(control_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (file >= 0) close(file);
	return mapped;
}

static word load(void) {
	word (*get)(functions_t **);
	control_t *mapped = map_control();
	if (mapped == MAP_FAILED || LOAD(mapped->size) != sizeof(control_t)) return refuse("is not a control file of this shim", CONTROL);
	if (module == NULL) module = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
	if (module == NULL) return refuse(dlerror(), "the module behind cannot be loaded");
	*(void **)&get = dlsym(module, "C_GetFunctionList");
	if (get == NULL || get(&real) != CKR_OK) return refuse("is not a PKCS#11 module", REAL);
	pthread_rwlockattr_t attributes;
	pthread_rwlockattr_init(&attributes);
#ifdef __GLIBC__
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
#endif
	pthread_rwlock_init(&gate, &attributes);
	drops = mapped->drops, logouts = mapped->logouts;
	control = mapped;
	ours.major = real->major, ours.minor = real->minor;
	return CKR_OK;
}

word C_GetFunctionList(functions_t **list) {
	if (control == NULL) {
		word rv = load();
		if (rv) return rv;
#define SET(i) ours.f[i] = w##i;
		ALL(SET)
		ours.f[F_GET_FUNCTION_LIST] = C_GetFunctionList;
	}
	*list = &ours;
	return CKR_OK;
}

// The functions of v3 are those of the module behind: nothing happens to them.
word C_GetInterface(const char *name, unsigned char *version, void **found, word flags) {
	functions_t *list;
	word (*get)(const char *, unsigned char *, void **, word);
	if (C_GetFunctionList(&list) != CKR_OK) return CKR_GENERAL_ERROR;
	*(void **)&get = dlsym(module, "C_GetInterface");
	return get ? get(name, version, found, flags) : CKR_NOT_SUPPORTED;
}
