package awsquery_test

import (
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
)

// assumeRole is a request with every kind of member.
type assumeRole struct {
	RoleArn         string  `xml:"RoleArn"`
	ExternalID      *string `xml:"ExternalId"`
	DurationSeconds *int32
	Flag            bool
	PolicyArns      []policyArn `xml:"PolicyArns>member"`
	Tags            []tag       `xml:"Tags>member,omitempty"`
	TransitiveTags  []string    `xml:"TransitiveTagKeys>member"`
	Filter          []string    `xml:"Filter"`
	Source          *source     `xml:"Source"`
	page
}

type policyArn struct {
	ARN *string `xml:"arn"`
}

type tag struct {
	Key, Value string
	Labels     int `xml:"-"` // not a member
}

type source struct {
	Name *string
	IDs  []int32 `xml:"Ids>member"`
}

type page struct {
	Marker *string
}

func TestDecode(t *testing.T) {
	t.Parallel()
	form, err := awsquery.Parse("Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2FR&ExternalId=&DurationSeconds=900&Flag=true" +
		"&PolicyArns.member.1.arn=a&PolicyArns.member.2.arn=b+c%20d&Tags.member.2.Value=v2&Tags.member.1.Key=k1&Tags.member.2.Key=k2" +
		"&TransitiveTagKeys=&Filter.1=x&Filter.2=y&Source.Ids.member.1=-7&Source.Name=%C3%BC&Marker=m" +
		"&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=c&X-Amz-Date=d&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=s&X-Amz-Security-Token=t")
	if err != nil {
		t.Fatalf("Parse = %v", err)
	}
	if form.Action != "AssumeRole" || form.Version != "2011-06-15" {
		t.Errorf("Parse = %s of %s", form.Action, form.Version)
	}
	var got assumeRole
	if err := form.Decode(&got); err != nil {
		t.Fatalf("Decode = %v", err)
	}
	want := assumeRole{
		RoleArn: "arn:aws:iam::1:role/R", ExternalID: new(""), DurationSeconds: new(int32(900)), Flag: true,
		PolicyArns: []policyArn{{new("a")}, {new("b c d")}}, Tags: []tag{{Key: "k1"}, {Key: "k2", Value: "v2"}},
		TransitiveTags: []string{}, Filter: []string{"x", "y"},
		Source: &source{Name: new("ü"), IDs: []int32{-7}}, page: page{new("m")},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(assumeRole{})); diff != "" {
		t.Errorf("Decode (-want +got):\n%s", diff)
	}
}

func TestDecodeOfNothing(t *testing.T) {
	t.Parallel()
	form, err := awsquery.Parse("Action=GetCallerIdentity&Version=2011-06-15")
	if err != nil {
		t.Fatalf("Parse = %v", err)
	}
	if err := form.Decode(&struct{}{}); err != nil {
		t.Errorf("Decode = %v", err)
	}
	var got assumeRole
	if err := form.Decode(&got); err != nil {
		t.Errorf("Decode = %v", err)
	}
	if diff := cmp.Diff(assumeRole{}, got, cmp.AllowUnexported(assumeRole{})); diff != "" {
		t.Errorf("Decode (-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	const syntax = "MalformedQueryString: The query string contains a syntax error."
	const action = "MissingAction: The request is missing an action or a required parameter."
	var many strings.Builder
	for i := range 1001 {
		many.WriteString("&p" + strconv.Itoa(i) + "=")
	}
	for name, test := range map[string]struct{ form, want string }{
		"nothing":            {"", action},
		"no action":          {"Version=1", action},
		"empty action":       {"Action=&Version=1", action},
		"bad escape":         {"Action=A&x=%zz", syntax},
		"cut escape":         {"Action=A&x=%2", syntax},
		"bad escape in name": {"Action=A&%x=1", syntax},
		"twice":              {"Action=A&x=1&x=1", syntax},
		"twice by escape":    {"Action=A&x=1&%78=1", syntax},
		"action twice":       {"Action=A&Action=B", syntax},
		"no name":            {"Action=A&=1", syntax},
		"empty parameter":    {"Action=A&&x=1", syntax},
		"trailing ampersand": {"Action=A&", syntax},
		"not UTF-8":          {"Action=A&x=%ff", syntax},
		"name not UTF-8":     {"Action=A&%ff=x", syntax},
		"NUL":                {"Action=A&x=a%00b", syntax},
		"JSON":               {`{"Action":"A"}`, action},
		"many":               {"Action=A" + many.String(), syntax},
		"large":              {"Action=A&x=" + strings.Repeat("x", awsquery.MaxBytes), "RequestEntityTooLargeException: Request body must not be larger than 131072 bytes."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := awsquery.Parse(test.form); err == nil || err.Error() != test.want {
				t.Errorf("Parse = %v, want %s", err, test.want)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	unknown := func(name string) string { return "ValidationError: The parameter " + name + " is not recognized" }
	for parameters, want := range map[string]string{
		"Foo=1":                           unknown("Foo"),
		"Foo.Bar.1=1":                     unknown("Foo.Bar.1"),
		"roleArn=a":                       unknown("roleArn"),
		"b=1&a=1":                         unknown("a"),
		"Labels=1":                        unknown("Labels"),
		"RoleArn.x=a":                     unknown("RoleArn.x"),
		"RoleArn=a&RoleArn.x=a":           unknown("RoleArn.x"),
		"RoleArn.=a":                      unknown("RoleArn."),
		".RoleArn=a":                      unknown(".RoleArn"),
		"DurationSeconds=x":               "ValidationError: The value of parameter DurationSeconds is not an integer",
		"DurationSeconds=":                "ValidationError: The value of parameter DurationSeconds is not an integer",
		"DurationSeconds=1e3":             "ValidationError: The value of parameter DurationSeconds is not an integer",
		"DurationSeconds=2147483648":      "ValidationError: The value of parameter DurationSeconds is not an integer",
		"Flag=True":                       "ValidationError: The value of parameter Flag is not a boolean",
		"Tags=x":                          unknown("Tags"),
		"Tags=&Tags.member.1.Key=k":       unknown("Tags"),
		"Tags.1.Key=k":                    unknown("Tags.1.Key"),
		"Tags.Member.1.Key=k":             unknown("Tags.Member.1.Key"),
		"Tags.member=k":                   unknown("Tags.member"),
		"Tags.member.1=k":                 unknown("Tags.member.1"),
		"Tags.member.0.Key=k":             unknown("Tags.member.0.Key"),
		"Tags.member.2.Key=k":             unknown("Tags.member.2.Key"),
		"Tags.member.01.Key=k":            unknown("Tags.member.01.Key"),
		"Tags.member.-1.Key=k":            unknown("Tags.member.-1.Key"),
		"Tags.member.1.Labels=k":          unknown("Tags.member.1.Labels"),
		"Filter=x":                        unknown("Filter"),
		"Filter.1=x&Filter.3=y":           unknown("Filter.3"),
		"Source=x":                        unknown("Source"),
		"Source.Ids.member.1=x":           "ValidationError: The value of parameter Source.Ids.member.1 is not an integer",
		"Source.Name.x=":                  unknown("Source.Name.x"),
		"X-Amz-Other=1":                   unknown("X-Amz-Other"),
		strings.Repeat("a.", 20000) + "=": unknown(strings.Repeat("a.", 20000)),
	} {
		t.Run(parameters[:min(len(parameters), 40)], func(t *testing.T) {
			t.Parallel()
			form, err := awsquery.Parse("Action=A&" + parameters)
			if err != nil {
				t.Fatalf("Parse = %v", err)
			}
			var in assumeRole
			if err := form.Decode(&in); err == nil || err.Error() != want {
				t.Errorf("Decode = %.200v\nwant %.200s", err, want)
			}
		})
	}
}

func TestDecodeRefusesATypeThatNoParameterHas(t *testing.T) {
	t.Parallel()
	form, err := awsquery.Parse("Action=A&X=1")
	if err != nil {
		t.Fatalf("Parse = %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("Decode did not panic")
		}
	}()
	_ = form.Decode(&struct{ X float64 }{}) // panics
}

func TestUnknownAction(t *testing.T) {
	t.Parallel()
	got := awsquery.UnknownAction(awsquery.Form{Action: "Foo", Version: "2011-06-15"})
	if want := "InvalidAction: Could not find operation Foo for version 2011-06-15"; got.Error() != want {
		t.Errorf("UnknownAction = %v, want %s", got, want)
	}
}

// FuzzDecode holds that what is accepted reads the same to net/url, and that a
// decoded list has as many members as parameters name.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "Action=GetCallerIdentity&Version=2011-06-15", "Action=A&x=%zz", "Action=A&x=1&x=2", "Action=A&=", "Action=A&x",
		"Action=A&RoleArn=a%2Bb+c&DurationSeconds=900", "Action=A&Tags.member.1.Key=k&Tags.member.1.Value=v", "Action=A&Tags.member.2.Key=k",
		"Action=A&Tags=", "Action=A&Filter.1=x&Filter.2=y", "Action=A&Source.Ids.member.1=7", "Action=A&....=1", "Action=A&X-Amz-Signature=s",
		"Action=A&x=1;y=2", "Action=A&x=%ff", "Action=A&%41ction=B",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		form, err := awsquery.Parse(text)
		if err != nil {
			return
		}
		if !strings.Contains(text, ";") { // net/url refuses it, AWS does not
			values, urlErr := url.ParseQuery(text)
			if urlErr != nil || values.Get("Action") != form.Action || len(values["Action"]) != 1 {
				t.Errorf("Parse(%q) = %q, net/url has %q, %v", text, form.Action, values["Action"], urlErr)
			}
		}
		var in assumeRole
		if err := form.Decode(&in); err != nil {
			return
		}
		kmsapi.Validate(&in)
		if got, want := len(in.Filter), strings.Count("&"+text, "&Filter."); got < want {
			t.Errorf("Decode(%q) has %d of %d filters", text, got, want)
		}
	})
}
