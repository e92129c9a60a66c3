package awsquery

import (
	"bytes"
	"encoding/xml"
	"net/http"

	"kmsgate/gateway/kmsapi"
)

// metadata is the end of every answer.
type metadata struct {
	RequestID string `xml:"RequestId"`
}

// Encode is the body of an answer: out, a struct or a pointer to one, stands in
// <ActionResult>. namespace is the service's XML namespace, such as
// "https://sts.amazonaws.com/doc/2011-06-15/". An action without a result has nil or a [kmsapi.Empty] for
// out, and no such element.
func Encode(action, namespace, requestID string, out any) ([]byte, error) {
	var b bytes.Buffer
	enc := xml.NewEncoder(&b)
	root := element(action + "Response")
	root.Attr = []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: namespace}}
	if err := enc.EncodeToken(root); err != nil {
		return nil, err
	}
	switch out.(type) {
	case nil, kmsapi.Empty, *kmsapi.Empty:
	default:
		if err := enc.EncodeElement(out, element(action+"Result")); err != nil {
			return nil, err
		}
	}
	if err := enc.EncodeElement(metadata{requestID}, element("ResponseMetadata")); err != nil {
		return nil, err
	}
	if err := enc.EncodeToken(root.End()); err != nil {
		return nil, err
	}
	if err := enc.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func element(name string) xml.StartElement { return xml.StartElement{Name: xml.Name{Local: name}} }

// errorResponse is the body of an error.
type errorResponse struct {
	XMLName   xml.Name `xml:"ErrorResponse"`
	Namespace string   `xml:"xmlns,attr"`
	Type      string   `xml:"Error>Type"` // whose fault: Sender or Receiver
	Code      string   `xml:"Error>Code"`
	Message   string   `xml:"Error>Message"`
	RequestID string   `xml:"RequestId"`
}

// EncodeError is the status and the body of an error, its code under the name
// that this protocol has for it.
func EncodeError(e *kmsapi.Error, namespace, requestID string) (status int, body []byte) {
	row := rowOf(e.Code)
	whose := "Sender"
	if row.status >= http.StatusInternalServerError {
		whose = "Receiver"
	}
	body, err := xml.Marshal(errorResponse{
		Namespace: namespace, Type: whose, Code: row.code, Message: e.Message, RequestID: requestID,
	})
	if err != nil { // strings alone can't fail
		panic("awsquery: encode error: " + err.Error())
	}
	return row.status, body
}
