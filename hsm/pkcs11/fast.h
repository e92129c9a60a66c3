// The data plane: one C function per operation, init and operation together,
// parameters on the C stack, output into the caller's buffer. PKCS#11 v2.40.
#ifndef KMSGATE_FAST_H
#define KMSGATE_FAST_H

typedef unsigned long km_ulong; // CK_ULONG
typedef unsigned char km_byte;  // CK_BYTE

// CK_FUNCTION_LIST, PKCS#11 v2.40 section 3.6, as an array.
typedef struct {
	km_byte major, minor;
	void *f[68];
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
km_result km_sign(km_functions *fl, km_ulong session, km_ulong key, km_ulong mechanism,
	km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap);
km_ulong km_random(km_functions *fl, km_ulong session, km_byte *out, km_ulong n);
km_result km_wrap(km_functions *fl, km_ulong session, km_ulong mechanism, km_ulong domain_key, km_ulong key,
	km_byte *out, km_ulong out_cap);

// What km_unwrap and km_generate make.
enum {
	KM_EXTRACTABLE = 1, // for the mover and for what will be wrapped at once
	KM_ENCRYPT = 2,     // ENCRYPT and DECRYPT
	KM_SIGN = 4,        // SIGN and VERIFY
	KM_WRAP = 8,        // WRAP and UNWRAP
};

// Makes a session object that is PRIVATE and SENSITIVE; value_len is left out
// of the template if zero.
km_result km_unwrap(km_functions *fl, km_ulong session, km_ulong mechanism, km_ulong domain_key,
	km_byte *blob, km_ulong blob_len, km_ulong object_class, km_ulong key_type, km_ulong may, km_ulong value_len);
km_result km_generate(km_functions *fl, km_ulong session, km_ulong mechanism,
	km_ulong object_class, km_ulong key_type, km_ulong may, km_ulong value_len);
km_ulong km_destroy(km_functions *fl, km_ulong session, km_ulong object);

// A CK_ATTRIBUTE[3] that says TOKEN=0, PRIVATE=1, SENSITIVE=1: the domain key's
// CKA_UNWRAP_TEMPLATE. Its size is returned in size; it lives until the process ends.
const void *km_unwrap_template(km_ulong *size);

// Calls the module n times with one key and no engine around it, for the
// benchmark; stops early at an error. The IV is counted up from iv.
km_result km_gcm_encrypt_loop(km_functions *fl, km_ulong session, km_ulong key, km_byte *iv, km_byte *aad, km_ulong aad_len,
	km_byte *in, km_ulong in_len, km_byte *out, km_ulong out_cap, km_ulong n);

#endif
