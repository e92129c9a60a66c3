// The data plane: one C function per operation, init and operation together,
// parameters on the C stack, output into the caller's buffer. PKCS#11 v2.40.
#ifndef KMSGATE_FAST_H
#define KMSGATE_FAST_H

typedef unsigned long km_ulong; // CK_ULONG
typedef unsigned char km_byte;  // CK_BYTE

// CK_FUNCTION_LIST (PKCS#11 v2.40 section 3.6) or CK_FUNCTION_LIST_3_2 as an array.
typedef struct {
	km_byte major, minor;
	void *f[94]; // 68 in v2.40; C_EncapsulateKey and C_DecapsulateKey of v3.2 are the last
} km_functions;

// A CK_RV and, if that is CKR_OK, a length or an object handle.
typedef struct {
	km_ulong rv, n;
} km_result;

void *km_load(const char *path, const char **problem);
void km_unload(void *library);
km_functions *km_function_list(void *library);

km_ulong km_login(km_functions *fl, km_ulong session, km_byte *pin, km_ulong pin_len);

// iv is the caller's, or iv_len bytes for the token to write into, or NULL
// where the token appends what it chose to the output.
km_result km_gcm_encrypt(km_functions *fl, km_ulong session, km_ulong key, km_byte *iv, km_ulong iv_len,
	km_byte *aad, km_ulong aad_len, km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap);
km_result km_gcm_decrypt(km_functions *fl, km_ulong session, km_ulong key, km_byte *iv, km_ulong iv_len,
	km_byte *aad, km_ulong aad_len, km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap);
// A mechanism is its type and its parameter structure, which holds no pointer
// that is not NULL. Output that an error leaves behind is cleared.
km_result km_sign(km_functions *fl, km_ulong session, km_ulong key, km_ulong mechanism, km_byte *param, km_ulong param_len,
	km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap);
km_result km_encrypt(km_functions *fl, km_ulong session, km_ulong key, km_ulong mechanism, km_byte *param, km_ulong param_len,
	km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap);
km_result km_decrypt(km_functions *fl, km_ulong session, km_ulong key, km_ulong mechanism, km_byte *param, km_ulong param_len,
	km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap);
km_ulong km_verify(km_functions *fl, km_ulong session, km_ulong key, km_ulong mechanism, km_byte *param, km_ulong param_len,
	km_byte *in, km_ulong in_len, km_byte *signature, km_ulong signature_len);
km_ulong km_random(km_functions *fl, km_ulong session, km_byte *out, km_ulong n);
km_result km_wrap(km_functions *fl, km_ulong session, km_ulong mechanism, km_byte *param, km_ulong param_len, km_ulong wrapping_key,
	km_ulong key, km_byte *out, km_ulong out_cap);

// A template is a byte string: for each attribute its type and its length, a
// CK_ULONG each, and its value, padded with zeros to a multiple of eight bytes.
km_result km_unwrap(km_functions *fl, km_ulong session, km_ulong mechanism, km_byte *param, km_ulong param_len, km_ulong unwrapping_key,
	km_byte *blob, km_ulong blob_len, km_byte *template, km_ulong template_len);
km_result km_generate(km_functions *fl, km_ulong session, km_ulong mechanism, km_byte *template, km_ulong template_len);
km_result km_create(km_functions *fl, km_ulong session, km_byte *template, km_ulong template_len);

// A CK_RV and, if that is CKR_OK, the handles of a pair.
typedef struct {
	km_ulong rv, public_key, private_key;
} km_pair;
km_pair km_generate_pair(km_functions *fl, km_ulong session, km_ulong mechanism,
	km_byte *public_template, km_ulong public_len, km_byte *private_template, km_ulong private_len);

// CKM_ECDH1_DERIVE without a KDF; peer is the other side's point.
km_result km_derive(km_functions *fl, km_ulong session, km_ulong key, km_byte *peer, km_ulong peer_len,
	km_byte *template, km_ulong template_len);
// Reads one attribute.
km_result km_attribute(km_functions *fl, km_ulong session, km_ulong object, km_ulong type, km_byte *out, km_ulong out_cap);

// The functions of PKCS#11 v3.2, or NULL if the module has none.
km_functions *km_function_list_32(void *library);
// A CK_RV and, if that is CKR_OK, the handle of the secret and the length of its encapsulation.
typedef struct {
	km_ulong rv, secret, n;
} km_encapsulation;
km_encapsulation km_encapsulate(km_functions *fl32, km_ulong session, km_ulong mechanism, km_ulong public_key,
	km_byte *template, km_ulong template_len, km_byte *out, km_ulong out_cap);
km_result km_decapsulate(km_functions *fl32, km_ulong session, km_ulong mechanism, km_ulong private_key,
	km_byte *template, km_ulong template_len, km_byte *in, km_ulong in_len);

km_ulong km_destroy(km_functions *fl, km_ulong session, km_ulong object);

// A CK_ATTRIBUTE[3] that says TOKEN=0, PRIVATE=1, SENSITIVE=1: the domain key's
// CKA_UNWRAP_TEMPLATE. Its size is returned in size; it lives until the process ends.
const void *km_unwrap_template(km_ulong *size);

// Calls the module n times with one key and no engine around it, for the
// benchmark; stops early at an error. The IV is counted up from iv.
km_result km_gcm_encrypt_loop(km_functions *fl, km_ulong session, km_ulong key, km_byte *iv, km_byte *aad, km_ulong aad_len,
	km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap, km_ulong n);

#endif
