package yaml11_test

import (
	"testing"

	"github.com/pgtender/pgtender/patroni/yaml11"
)

func FuzzDecode(f *testing.F) {
	for _, doc := range documents {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := yaml11.Decode(data)
		if err != nil && v != nil {
			t.Errorf("both a value and the error %v", err)
		}
	})
}
