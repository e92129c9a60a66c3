// Cryptographic functions of the module; module.c includes this.

enum { CKM_ML_KEM_KEY_PAIR_GEN = 0xF, CKM_ML_DSA_KEY_PAIR_GEN = 0x1C };

// What a request has before its arguments: operation, slot, session and state.
static const size_t header = 4 * sizeof(ulong_t);

static int is_active(ulong_t session, int what) {
	record_t *r = find_record(session);
	return r != NULL && r->operation[what].n > 0;
}

static ulong_t operation_init(int what, int place, ulong_t operation, ulong_t session, mechanism_t *mechanism, ulong_t key) {
	if (is_active(session, what)) return CKR_OPERATION_ACTIVE;
	if (!is_ours(key) || mechanism == NULL) return REAL(place, session, mechanism, key);
	message_t m, kept = {0};
	session_info_t info;
	ulong_t rv = begin(&m, operation, session, &info);
	put_mechanism(&m, mechanism);
	put_ulong(&m, key);
	put(&kept, m.p + header, m.n - header);
	if (rv == CKR_OK) rv = ask(&m);
	record_t *r = rv == CKR_OK ? make_record(info.slot, session) : NULL;
	if (rv == CKR_OK && r == NULL) rv = CKR_HOST_MEMORY;
	if (rv == CKR_OK) {
		r->operation[what] = kept;
		if (what == SIGNING) r->signature_len = take_ulong(&m);
	} else {
		drop(&kept);
	}
	drop(&m);
	return rv;
}

static ulong_t sign_init(ulong_t session, mechanism_t *mechanism, ulong_t key) {
	return operation_init(SIGNING, F_SIGN_INIT, OP_SIGN_INIT, session, mechanism, key);
}

static ulong_t verify_init(ulong_t session, mechanism_t *mechanism, ulong_t key) {
	return operation_init(VERIFYING, F_VERIFY_INIT, OP_VERIFY_INIT, session, mechanism, key);
}

// Begins the request that ends an active operation.
static ulong_t operate(message_t *m, int what, ulong_t operation, ulong_t session, const void *in, ulong_t in_len) {
	record_t *r = find_record(session);
	session_info_t info;
	ulong_t rv = begin(m, operation, session, &info);
	put(m, r->operation[what].p, r->operation[what].n);
	drop(&r->operation[what]);
	put_bytes(m, in, in_len);
	return rv;
}

static ulong_t sign(ulong_t session, byte_t *in, ulong_t in_len, byte_t *out, ulong_t *out_len) {
	if (!is_active(session, SIGNING)) return REAL(F_SIGN, session, in, in_len, out, out_len);
	if (out_len == NULL) return CKR_ARGUMENTS_BAD;
	ulong_t need = find_record(session)->signature_len, cap = *out_len;
	*out_len = need;
	if (out == NULL) return CKR_OK;
	if (cap < need) return CKR_BUFFER_TOO_SMALL;
	message_t m;
	ulong_t n, rv = operate(&m, SIGNING, OP_SIGN, session, in, in_len);
	if (rv == CKR_OK) rv = ask(&m);
	if (rv == CKR_OK) {
		byte_t *signature = take_bytes(&m, &n);
		if (n != need) rv = CKR_DEVICE_ERROR;
		else memcpy(out, signature, n);
	}
	drop(&m);
	return rv;
}

static ulong_t verify(ulong_t session, byte_t *in, ulong_t in_len, byte_t *signature, ulong_t signature_len) {
	if (!is_active(session, VERIFYING)) return REAL(F_VERIFY, session, in, in_len, signature, signature_len);
	message_t m;
	ulong_t rv = operate(&m, VERIFYING, OP_VERIFY, session, in, in_len);
	put_bytes(&m, signature, signature_len);
	if (rv == CKR_OK) rv = ask(&m);
	drop(&m);
	return rv;
}

// Signing and verifying in parts: not with our keys; the operation ends.
static ulong_t in_parts(int what, int place, ulong_t session, void *part, ulong_t part_len) {
	if (!is_active(session, what)) return REAL(place, session, part, part_len);
	drop(&find_record(session)->operation[what]);
	return CKR_FUNCTION_NOT_SUPPORTED;
}

static ulong_t sign_update(ulong_t session, void *part, ulong_t n) { return in_parts(SIGNING, F_SIGN_UPDATE, session, part, n); }
static ulong_t sign_final(ulong_t session, void *out, ulong_t n) { return in_parts(SIGNING, F_SIGN_FINAL, session, out, n); }
static ulong_t verify_update(ulong_t session, void *part, ulong_t n) { return in_parts(VERIFYING, F_VERIFY_UPDATE, session, part, n); }
static ulong_t verify_final(ulong_t session, void *in, ulong_t n) { return in_parts(VERIFYING, F_VERIFY_FINAL, session, in, n); }

static ulong_t generate_pair(ulong_t session, mechanism_t *mechanism, attribute_t *public_t, ulong_t publics,
	attribute_t *private_t, ulong_t privates, ulong_t *public_key, ulong_t *private_key) {
	if (mechanism == NULL || (mechanism->type != CKM_ML_DSA_KEY_PAIR_GEN && mechanism->type != CKM_ML_KEM_KEY_PAIR_GEN))
		return REAL(F_GENERATE_PAIR, session, mechanism, public_t, publics, private_t, privates, public_key, private_key);
	if (public_key == NULL || private_key == NULL) return CKR_ARGUMENTS_BAD;
	message_t m;
	session_info_t info;
	ulong_t rv = begin(&m, OP_GENERATE, session, &info);
	put_mechanism(&m, mechanism);
	put_template(&m, public_t, publics);
	put_template(&m, private_t, privates);
	if (rv == CKR_OK) rv = ask(&m);
	if (rv == CKR_OK) {
		*public_key = take_ulong(&m);
		*private_key = take_ulong(&m);
	}
	drop(&m);
	return rv;
}

static byte_t yes = 1, no = 0;
static ulong_t secret_key = CKO_SECRET_KEY, generic_secret = CKK_GENERIC_SECRET, aes = CKK_AES;

// Makes a secret of these bytes in SoftHSM, that is gone with its session at the latest.
static ulong_t make_secret(ulong_t session, ulong_t *key_type, byte_t *value, ulong_t n, ulong_t *secret) {
	attribute_t t[] = {
		{CKA_CLASS, &secret_key, sizeof secret_key}, {CKA_KEY_TYPE, key_type, sizeof *key_type}, {CKA_TOKEN, &no, 1}, {CKA_PRIVATE, &yes, 1},
		{CKA_SENSITIVE, &no, 1}, {CKA_EXTRACTABLE, &yes, 1}, {CKA_WRAP, &yes, 1}, {CKA_VALUE, value, n},
	};
	return REAL(F_CREATE, session, t, sizeof t / sizeof *t, secret);
}

// A private key of ours is wrapped as its PrivateKeyInfo (PKCS#11 v3.2, section
// 6.7), which the server gives if it may.
static ulong_t wrap_key(ulong_t session, mechanism_t *mechanism, ulong_t wrapping_key, ulong_t key, byte_t *out, ulong_t *out_len) {
	if (is_ours(wrapping_key)) return CKR_WRAPPING_KEY_TYPE_INCONSISTENT;
	if (!is_ours(key)) return REAL(F_WRAP, session, mechanism, wrapping_key, key, out, out_len);
	message_t m;
	session_info_t info;
	ulong_t n, secret, rv = begin(&m, OP_WRAP, session, &info);
	put_ulong(&m, key);
	if (rv == CKR_OK) rv = ask(&m);
	if (rv == CKR_OK) {
		byte_t *private_key_info = take_bytes(&m, &n);
		rv = make_secret(session, &generic_secret, private_key_info, n, &secret);
	}
	drop(&m);
	if (rv != CKR_OK) return rv;
	rv = REAL(F_WRAP, session, mechanism, wrapping_key, secret, out, out_len);
	REAL(F_DESTROY, session, secret);
	return rv;
}

// Unwraps as a secret, with what the caller says of TOKEN, PRIVATE and SENSITIVE,
// so that SoftHSM compares that with the unwrapping key's CKA_UNWRAP_TEMPLATE.
static ulong_t unwrap_secret(ulong_t session, mechanism_t *mechanism, ulong_t unwrapping_key, byte_t *wrapped, ulong_t wrapped_len,
	attribute_t *t, ulong_t count, ulong_t *secret) {
	attribute_t as[] = {
		{CKA_CLASS, &secret_key, sizeof secret_key}, {CKA_KEY_TYPE, &generic_secret, sizeof generic_secret},
		{CKA_TOKEN, &no, 1}, {CKA_PRIVATE, &yes, 1}, {CKA_SENSITIVE, &yes, 1}, {CKA_EXTRACTABLE, &yes, 1},
	};
	for (ulong_t i = 0; i < count; i++) {
		for (int j = 2; j < 5; j++) {
			if (as[j].type == t[i].type) as[j] = t[i];
		}
	}
	return REAL(F_UNWRAP, session, mechanism, unwrapping_key, wrapped, wrapped_len, as, sizeof as / sizeof *as, secret);
}

// Unwraps into SoftHSM and carries that over to the server under a key that both know.
static ulong_t unwrap_key(ulong_t session, mechanism_t *mechanism, ulong_t unwrapping_key, byte_t *wrapped, ulong_t wrapped_len,
	attribute_t *t, ulong_t count, ulong_t *key) {
	if (is_ours(unwrapping_key)) return CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT;
	if (!has_our_key_type(t, count))
		return REAL(F_UNWRAP, session, mechanism, unwrapping_key, wrapped, wrapped_len, t, count, key);
	ulong_t secret, transport;
	ulong_t rv = unwrap_secret(session, mechanism, unwrapping_key, wrapped, wrapped_len, t, count, &secret);
	if (rv != CKR_OK) return rv;
	byte_t value[32], carried[8192];
	ulong_t carried_len = sizeof carried;
	mechanism_t carry = {CKM_AES_KEY_WRAP_PAD, NULL, 0};
	rv = REAL(F_RANDOM, session, value, sizeof value);
	if (rv == CKR_OK) rv = make_secret(session, &aes, value, sizeof value, &transport);
	if (rv == CKR_OK) {
		rv = REAL(F_WRAP, session, &carry, transport, secret, carried, &carried_len);
		REAL(F_DESTROY, session, transport);
	}
	REAL(F_DESTROY, session, secret);
	if (rv != CKR_OK) return rv;
	message_t m;
	session_info_t info;
	rv = begin(&m, OP_UNWRAP, session, &info);
	put_bytes(&m, value, sizeof value);
	put_bytes(&m, carried, carried_len);
	put_template(&m, t, count);
	explicit_bzero(value, sizeof value);
	if (rv == CKR_OK) rv = ask(&m);
	if (rv == CKR_OK) *key = take_ulong(&m);
	drop(&m);
	return rv;
}

enum { TEMPLATE_MAX = 40 };

// Makes a shared secret an object of SoftHSM's, as the caller's template says.
// EXTRACTABLE is true unless that says otherwise (PKCS#11 v3.2, section 5.18.8).
static ulong_t keep_shared_secret(ulong_t session, attribute_t *t, ulong_t count, byte_t *value, ulong_t n, ulong_t *secret) {
	attribute_t made[TEMPLATE_MAX + 2];
	ulong_t used = 0;
	int extractable = 0;
	if (count > TEMPLATE_MAX) return CKR_ARGUMENTS_BAD;
	for (ulong_t i = 0; i < count; i++) {
		extractable |= t[i].type == CKA_EXTRACTABLE;
		if (t[i].type != CKA_VALUE_LEN) made[used++] = t[i]; // the server has compared it
	}
	if (!extractable) made[used++] = (attribute_t){CKA_EXTRACTABLE, &yes, 1};
	made[used++] = (attribute_t){CKA_VALUE, value, n};
	return REAL(F_CREATE, session, made, used, secret);
}

static ulong_t encapsulate(ulong_t session, mechanism_t *mechanism, ulong_t public_key, attribute_t *t, ulong_t count,
	byte_t *out, ulong_t *out_len, ulong_t *key) {
	if (mechanism == NULL || out_len == NULL || key == NULL) return CKR_ARGUMENTS_BAD;
	message_t m;
	session_info_t info;
	ulong_t n, secret_len, cap = *out_len, rv = begin(&m, OP_ENCAPSULATE, session, &info);
	put_mechanism(&m, mechanism);
	put_ulong(&m, public_key);
	put_template(&m, t, count);
	if (rv == CKR_OK) rv = ask(&m);
	if (rv == CKR_OK) {
		byte_t *ciphertext = take_bytes(&m, &n), *secret = take_bytes(&m, &secret_len);
		*out_len = n;
		rv = m.rv;
		if (rv == CKR_OK && out != NULL && cap < n) rv = CKR_BUFFER_TOO_SMALL;
		if (rv == CKR_OK && out != NULL) rv = keep_shared_secret(session, t, count, secret, secret_len, key);
		if (rv == CKR_OK && out != NULL) memcpy(out, ciphertext, n);
	}
	drop(&m);
	return rv;
}

static ulong_t decapsulate(ulong_t session, mechanism_t *mechanism, ulong_t private_key, attribute_t *t, ulong_t count,
	byte_t *in, ulong_t in_len, ulong_t *key) {
	if (mechanism == NULL || key == NULL) return CKR_ARGUMENTS_BAD;
	message_t m;
	session_info_t info;
	ulong_t n, rv = begin(&m, OP_DECAPSULATE, session, &info);
	put_mechanism(&m, mechanism);
	put_ulong(&m, private_key);
	put_template(&m, t, count);
	put_bytes(&m, in, in_len);
	if (rv == CKR_OK) rv = ask(&m);
	if (rv == CKR_OK) {
		byte_t *secret = take_bytes(&m, &n);
		rv = m.rv != CKR_OK ? m.rv : keep_shared_secret(session, t, count, secret, n, key);
	}
	drop(&m);
	return rv;
}
