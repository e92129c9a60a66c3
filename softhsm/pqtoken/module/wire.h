// How the module speaks with the server that has the post-quantum keys: over a
// Unix socket, in messages of a length and that many bytes. Numbers are a
// CK_ULONG each; a byte string is its length and itself; a template is the
// number of its attributes and for each its type and value. A request is an
// operation, the caller's slot, session and session state, and the arguments; a
// reply is a CK_RV and the results.
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

typedef unsigned long ulong_t; // CK_ULONG
typedef unsigned char byte_t;  // CK_BYTE
typedef struct { ulong_t type; void *value; ulong_t len; } attribute_t;       // CK_ATTRIBUTE
typedef struct { ulong_t type; void *param; ulong_t param_len; } mechanism_t; // CK_MECHANISM
typedef struct { ulong_t hedge; byte_t *context; ulong_t context_len; } sign_context_t; // CK_SIGN_ADDITIONAL_CONTEXT

// Operations; the server has the same.
enum {
	OP_MECHANISMS, OP_CLOSE_SESSION, OP_CLOSE_SLOT, OP_LOGOUT, OP_INIT_TOKEN, OP_CREATE, OP_DESTROY, OP_GET, OP_SET,
	OP_FIND, OP_GENERATE, OP_SIGN_INIT, OP_SIGN, OP_VERIFY_INIT, OP_VERIFY, OP_ENCAPSULATE, OP_DECAPSULATE, OP_WRAP, OP_UNWRAP,
};

// Kinds of mechanism parameters.
enum { PARAM_NONE, PARAM_SIGN_CONTEXT, PARAM_OTHER };

enum {
	CKR_OK = 0, CKR_HOST_MEMORY = 2, CKR_SLOT_ID_INVALID = 3, CKR_ARGUMENTS_BAD = 7, CKR_ACTION_PROHIBITED = 0x1B, CKR_DEVICE_ERROR = 0x30,
	CKR_FUNCTION_NOT_SUPPORTED = 0x54, CKR_MECHANISM_INVALID = 0x70, CKR_OPERATION_ACTIVE = 0x90,
	CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT = 0xF2, CKR_WRAPPING_KEY_TYPE_INCONSISTENT = 0x115,
	CKR_INFORMATION_SENSITIVE = 0x170, CKR_BUFFER_TOO_SMALL = 0x150,
};

typedef struct {
	byte_t *p;
	size_t n, cap; // bytes used, and there
	size_t at;     // how far a reply was read
	ulong_t rv;    // what was wrong with the arguments or the reply
} message_t;

static void put(message_t *m, const void *p, size_t n) {
	if (m->n + n > m->cap) {
		size_t cap = 2 * (m->n + n) + 256;
		byte_t *grown = realloc(m->p, cap);
		if (grown == NULL) {
			m->rv = CKR_HOST_MEMORY;
			return;
		}
		m->p = grown, m->cap = cap;
	}
	if (n > 0) memcpy(m->p + m->n, p, n);
	m->n += n;
}

static void put_ulong(message_t *m, ulong_t v) { put(m, &v, sizeof v); }

static void put_bytes(message_t *m, const void *p, ulong_t n) {
	if (p == NULL && n > 0) m->rv = CKR_ARGUMENTS_BAD, n = 0;
	put_ulong(m, n);
	put(m, p, n);
}

static void put_template(message_t *m, const attribute_t *t, ulong_t count) {
	if (t == NULL && count > 0) m->rv = CKR_ARGUMENTS_BAD, count = 0;
	put_ulong(m, count);
	for (ulong_t i = 0; i < count; i++) {
		put_ulong(m, t[i].type);
		put_bytes(m, t[i].value, t[i].len);
	}
}

static void put_mechanism(message_t *m, const mechanism_t *mechanism) {
	const sign_context_t *p = mechanism->param;
	put_ulong(m, mechanism->type);
	if (p == NULL && mechanism->param_len == 0) {
		put_ulong(m, PARAM_NONE);
	} else if (p == NULL) {
		m->rv = CKR_ARGUMENTS_BAD;
	} else if (mechanism->param_len != sizeof *p) {
		put_ulong(m, PARAM_OTHER);
	} else {
		put_ulong(m, PARAM_SIGN_CONTEXT);
		put_ulong(m, p->hedge);
		put_bytes(m, p->context, p->context_len);
	}
}

static ulong_t take_ulong(message_t *m) {
	ulong_t v = 0;
	if (m->n - m->at < sizeof v) {
		m->rv = CKR_DEVICE_ERROR;
		return 0;
	}
	memcpy(&v, m->p + m->at, sizeof v);
	m->at += sizeof v;
	return v;
}

// The bytes stay in the message.
static byte_t *take_bytes(message_t *m, ulong_t *n) {
	*n = take_ulong(m);
	if (m->n - m->at < *n) {
		m->rv = CKR_DEVICE_ERROR;
		*n = 0;
	}
	byte_t *p = m->p + m->at;
	m->at += *n;
	return p;
}

static void drop(message_t *m) {
	if (m->p != NULL) explicit_bzero(m->p, m->cap);
	free(m->p);
	memset(m, 0, sizeof *m);
}

// The connection; it is one client's to the server, from C_Initialize to C_Finalize.
static int connection = -1;
static pthread_mutex_t connection_lock = PTHREAD_MUTEX_INITIALIZER;

static void hang_up(void) {
	pthread_mutex_lock(&connection_lock);
	if (connection >= 0) close(connection);
	connection = -1;
	pthread_mutex_unlock(&connection_lock);
}

static ulong_t dial(void) {
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET};
	hang_up();
	pthread_mutex_lock(&connection_lock);
	connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int failed = connection < 0 || connect(connection, (struct sockaddr *)&address, sizeof address) != 0;
	pthread_mutex_unlock(&connection_lock);
	if (!failed) return CKR_OK;
	hang_up();
	return CKR_DEVICE_ERROR;
}

static int send_all(const void *p, size_t n) {
	while (n > 0) {
		ssize_t sent = send(connection, p, n, MSG_NOSIGNAL);
		if (sent <= 0) return 0;
		p = (const byte_t *)p + sent, n -= (size_t)sent;
	}
	return 1;
}

static int receive_all(void *p, size_t n) {
	while (n > 0) {
		ssize_t got = recv(connection, p, n, 0);
		if (got <= 0) return 0;
		p = (byte_t *)p + got, n -= (size_t)got;
	}
	return 1;
}

static int exchange(message_t *m) {
	ulong_t n = m->n;
	if (!send_all(&n, sizeof n) || !send_all(m->p, m->n) || !receive_all(&n, sizeof n)) return 0;
	m->n = 0;
	while (m->n < n) {
		byte_t piece[4096];
		size_t want = n - m->n < sizeof piece ? n - m->n : sizeof piece;
		if (!receive_all(piece, want)) return 0;
		put(m, piece, want);
	}
	return 1;
}

// Sends a request and makes the message its reply. Returns the reply's CK_RV, or
// what was wrong with the arguments.
static ulong_t ask(message_t *m) {
	if (m->rv != CKR_OK) return m->rv;
	pthread_mutex_lock(&connection_lock);
	int ok = connection >= 0 && exchange(m);
	pthread_mutex_unlock(&connection_lock);
	if (!ok) return CKR_DEVICE_ERROR;
	m->at = 0;
	ulong_t rv = take_ulong(m);
	return m->rv != CKR_OK ? m->rv : rv;
}
