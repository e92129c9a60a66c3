package kmsapi

import (
	"net/http"
	"slices"
)

// Code is the name of an error on the wire, the "__type" of an error body.
type Code string

// Codes that KMS's model declares.
const (
	AlreadyExistsException                                  Code = "AlreadyExistsException"
	CloudHsmClusterInUseException                           Code = "CloudHsmClusterInUseException"
	CloudHsmClusterInvalidConfigurationException            Code = "CloudHsmClusterInvalidConfigurationException"
	CloudHsmClusterNotActiveException                       Code = "CloudHsmClusterNotActiveException"
	CloudHsmClusterNotFoundException                        Code = "CloudHsmClusterNotFoundException"
	CloudHsmClusterNotRelatedException                      Code = "CloudHsmClusterNotRelatedException"
	ConflictException                                       Code = "ConflictException"
	CustomKeyStoreHasCMKsException                          Code = "CustomKeyStoreHasCMKsException"
	CustomKeyStoreInvalidStateException                     Code = "CustomKeyStoreInvalidStateException"
	CustomKeyStoreNameInUseException                        Code = "CustomKeyStoreNameInUseException"
	CustomKeyStoreNotFoundException                         Code = "CustomKeyStoreNotFoundException"
	DependencyTimeoutException                              Code = "DependencyTimeoutException"
	DisabledException                                       Code = "DisabledException"
	DryRunOperationException                                Code = "DryRunOperationException"
	ExpiredImportTokenException                             Code = "ExpiredImportTokenException"
	IncorrectKeyException                                   Code = "IncorrectKeyException"
	IncorrectKeyMaterialException                           Code = "IncorrectKeyMaterialException"
	IncorrectTrustAnchorException                           Code = "IncorrectTrustAnchorException"
	InvalidAliasNameException                               Code = "InvalidAliasNameException"
	InvalidArnException                                     Code = "InvalidArnException"
	InvalidCiphertextException                              Code = "InvalidCiphertextException"
	InvalidGrantIdException                                 Code = "InvalidGrantIdException"
	InvalidGrantTokenException                              Code = "InvalidGrantTokenException"
	InvalidImportTokenException                             Code = "InvalidImportTokenException"
	InvalidKeyUsageException                                Code = "InvalidKeyUsageException"
	InvalidMarkerException                                  Code = "InvalidMarkerException"
	KMSInternalException                                    Code = "KMSInternalException"
	KMSInvalidMacException                                  Code = "KMSInvalidMacException"
	KMSInvalidSignatureException                            Code = "KMSInvalidSignatureException"
	KMSInvalidStateException                                Code = "KMSInvalidStateException"
	KeyUnavailableException                                 Code = "KeyUnavailableException"
	LimitExceededException                                  Code = "LimitExceededException"
	MalformedPolicyDocumentException                        Code = "MalformedPolicyDocumentException"
	NotFoundException                                       Code = "NotFoundException"
	TagException                                            Code = "TagException"
	UnsupportedOperationException                           Code = "UnsupportedOperationException"
	XksKeyAlreadyInUseException                             Code = "XksKeyAlreadyInUseException"
	XksKeyInvalidConfigurationException                     Code = "XksKeyInvalidConfigurationException"
	XksKeyNotFoundException                                 Code = "XksKeyNotFoundException"
	XksProxyIncorrectAuthenticationCredentialException      Code = "XksProxyIncorrectAuthenticationCredentialException"
	XksProxyInvalidConfigurationException                   Code = "XksProxyInvalidConfigurationException"
	XksProxyInvalidResponseException                        Code = "XksProxyInvalidResponseException"
	XksProxyUriEndpointInUseException                       Code = "XksProxyUriEndpointInUseException"
	XksProxyUriInUseException                               Code = "XksProxyUriInUseException"
	XksProxyUriUnreachableException                         Code = "XksProxyUriUnreachableException"
	XksProxyVpcEndpointServiceInUseException                Code = "XksProxyVpcEndpointServiceInUseException"
	XksProxyVpcEndpointServiceInvalidConfigurationException Code = "XksProxyVpcEndpointServiceInvalidConfigurationException"
	XksProxyVpcEndpointServiceNotFoundException             Code = "XksProxyVpcEndpointServiceNotFoundException"
)

// Codes of the framework in front of KMS; the model doesn't declare them.
const (
	AccessDeniedException               Code = "AccessDeniedException"
	ExpiredTokenException               Code = "ExpiredTokenException"
	IncompleteSignatureException        Code = "IncompleteSignatureException"
	InternalFailure                     Code = "InternalFailure"
	InvalidSignatureException           Code = "InvalidSignatureException"
	MissingAuthenticationTokenException Code = "MissingAuthenticationTokenException"
	NotAuthorizedException              Code = "NotAuthorizedException"
	RequestEntityTooLargeException      Code = "RequestEntityTooLargeException"
	SerializationException              Code = "SerializationException"
	ThrottlingException                 Code = "ThrottlingException"
	UnknownOperationException           Code = "UnknownOperationException"
	UnrecognizedClientException         Code = "UnrecognizedClientException"
	ValidationException                 Code = "ValidationException"
)

// CodeRow is what the table says of one code.
type CodeRow struct {
	Code Code
	// HTTPStatus of the answer. KMS answers 400 to every fault of the caller,
	// whatever the status in its public model.
	HTTPStatus int
	// CapitalMessage: the body's member is "Message", not "message".
	CapitalMessage bool
}

// Row is the table's row of a code. A code that the table doesn't have is a
// fault of ours: it is answered like an internal failure.
func (c Code) Row() CodeRow {
	i := slices.IndexFunc(Codes, func(r CodeRow) bool { return r.Code == c })
	if i < 0 {
		return CodeRow{Code: c, HTTPStatus: http.StatusInternalServerError}
	}
	return Codes[i]
}

func refusal(c Code) CodeRow { return CodeRow{Code: c, HTTPStatus: http.StatusBadRequest} }

func fault(c Code) CodeRow { return CodeRow{Code: c, HTTPStatus: http.StatusInternalServerError} }

func capital(c Code) CodeRow {
	return CodeRow{Code: c, HTTPStatus: http.StatusBadRequest, CapitalMessage: true}
}

// Codes is the table of all codes. Nobody writes it.
var Codes = []CodeRow{
	fault(DependencyTimeoutException),
	fault(InternalFailure),
	fault(KMSInternalException),
	fault(KeyUnavailableException),

	capital(AccessDeniedException),
	capital(SerializationException),
	{Code: RequestEntityTooLargeException, HTTPStatus: http.StatusRequestEntityTooLarge},

	refusal(ExpiredTokenException),
	refusal(IncompleteSignatureException),
	refusal(InvalidSignatureException),
	refusal(MissingAuthenticationTokenException),
	refusal(NotAuthorizedException),
	refusal(ThrottlingException),
	refusal(UnknownOperationException),
	refusal(UnrecognizedClientException),
	refusal(ValidationException),

	refusal(AlreadyExistsException),
	refusal(CloudHsmClusterInUseException),
	refusal(CloudHsmClusterInvalidConfigurationException),
	refusal(CloudHsmClusterNotActiveException),
	refusal(CloudHsmClusterNotFoundException),
	refusal(CloudHsmClusterNotRelatedException),
	refusal(ConflictException),
	refusal(CustomKeyStoreHasCMKsException),
	refusal(CustomKeyStoreInvalidStateException),
	refusal(CustomKeyStoreNameInUseException),
	refusal(CustomKeyStoreNotFoundException),
	refusal(DisabledException),
	refusal(DryRunOperationException),
	refusal(ExpiredImportTokenException),
	refusal(IncorrectKeyException),
	refusal(IncorrectKeyMaterialException),
	refusal(IncorrectTrustAnchorException),
	refusal(InvalidAliasNameException),
	refusal(InvalidArnException),
	refusal(InvalidCiphertextException),
	refusal(InvalidGrantIdException),
	refusal(InvalidGrantTokenException),
	refusal(InvalidImportTokenException),
	refusal(InvalidKeyUsageException),
	refusal(InvalidMarkerException),
	refusal(KMSInvalidMacException),
	refusal(KMSInvalidSignatureException),
	refusal(KMSInvalidStateException),
	refusal(LimitExceededException),
	refusal(MalformedPolicyDocumentException),
	refusal(NotFoundException),
	refusal(TagException),
	refusal(UnsupportedOperationException),
	refusal(XksKeyAlreadyInUseException),
	refusal(XksKeyInvalidConfigurationException),
	refusal(XksKeyNotFoundException),
	refusal(XksProxyIncorrectAuthenticationCredentialException),
	refusal(XksProxyInvalidConfigurationException),
	refusal(XksProxyInvalidResponseException),
	refusal(XksProxyUriEndpointInUseException),
	refusal(XksProxyUriInUseException),
	refusal(XksProxyUriUnreachableException),
	refusal(XksProxyVpcEndpointServiceInUseException),
	refusal(XksProxyVpcEndpointServiceInvalidConfigurationException),
	refusal(XksProxyVpcEndpointServiceNotFoundException),
}
