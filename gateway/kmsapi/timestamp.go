package kmsapi

import (
	"math"
	"strconv"
	"time"
)

// Timestamp is a time; in JSON it is the number of seconds since the epoch,
// with a fraction of milliseconds at most. The zero time is an absent member.
type Timestamp struct{ time.Time }

// MarshalJSON is the number of seconds, cut to milliseconds.
func (t Timestamp) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(t.UnixMilli())/1000, 'f', -1, 64), nil
}

// Range of the times that can be sent: years 1 to 9999, in seconds.
const (
	minTimestamp = -62135596800
	maxTimestamp = 253402300799
)

// UnmarshalJSON reads a JSON number of seconds, fractions rounded to
// milliseconds. Anything else is a SerializationException.
func (t *Timestamp) UnmarshalJSON(value []byte) error {
	if len(value) == 0 || value[0] == 'n' {
		return nil
	}
	seconds, err := strconv.ParseFloat(string(value), 64)
	if err != nil || seconds < minTimestamp || seconds > maxTimestamp {
		return WrongType(value[0], TimestampShape)
	}
	t.Time = time.UnixMilli(int64(math.Round(seconds * 1000))).UTC()
	return nil
}
