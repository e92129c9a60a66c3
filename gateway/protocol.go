package gateway

import (
	"reflect"

	"kmsgate/gateway/awsjson"
	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
)

// protocol is how a service speaks.
type protocol struct {
	contentType string
	maxBody     int    // bytes
	version     string // of the API that a form must name; empty if there are no forms
	decode      func(c *call, in any) *kmsapi.Error
	encode      func(c *call, out any) ([]byte, error)
	encodeError func(c *call, e *kmsapi.Error) (status int, body []byte)
	// unknown refuses an operation that the service does not have.
	unknown func(c *call) *kmsapi.Error
}

// protocols of the services: AWS JSON 1.1 for KMS, AWS Query for STS and IAM.
var protocols = map[service]protocol{
	serviceKMS: {
		contentType: "application/x-amz-json-1.1", maxBody: maxBodyBytes,
		decode: func(c *call, in any) *kmsapi.Error { return awsjson.Decode(c.body, in) },
		encode: func(_ *call, out any) ([]byte, error) {
			if out == nil {
				return nil, nil
			}
			return awsjson.Encode(out)
		},
		encodeError: func(_ *call, e *kmsapi.Error) (int, []byte) { return awsjson.EncodeError(e) },
		unknown:     func(*call) *kmsapi.Error { return kmsapi.UnknownOperation() },
	},
	serviceSTS: queryProtocol("2011-06-15", "https://sts.amazonaws.com/doc/2011-06-15/"),
	serviceIAM: queryProtocol("2010-05-08", "https://iam.amazonaws.com/doc/2010-05-08/"),

	serviceContainers: containersProtocol,
}

// queryProtocol is AWS Query with one version of an API and the XML namespace of
// its answers: a name, not an address.
func queryProtocol(version, namespace string) protocol {
	return protocol{
		contentType: "text/xml", maxBody: awsquery.MaxBytes, version: version,
		decode: func(c *call, in any) *kmsapi.Error { return c.form.Decode(in) },
		encode: func(c *call, out any) ([]byte, error) {
			return awsquery.Encode(c.op.name, namespace, c.requestID, out)
		},
		encodeError: func(c *call, e *kmsapi.Error) (int, []byte) {
			return awsquery.EncodeError(e, namespace, c.requestID)
		},
		unknown: func(c *call) *kmsapi.Error { return awsquery.UnknownAction(c.form) },
	}
}

// wipe clears the secrets of a request or response and of the structs in it:
// plaintext lives as short as it can.
func wipe(message any) {
	v := reflect.ValueOf(message)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return
	}
	wipeFields(v.Elem())
}

func wipeFields(v reflect.Value) {
	for i := range v.NumField() {
		f := v.Field(i)
		if !f.CanInterface() {
			continue
		}
		if secret, ok := f.Interface().(kmsapi.Secret); ok {
			clear(secret)
		} else if f.Kind() == reflect.Struct {
			wipeFields(f)
		}
	}
}
