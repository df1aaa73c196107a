package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// Read reads the file at path, lays the environment over it (KEY=VALUE pairs
// as os.Environ gives them) and checks the result. An empty path means: the
// file that PGTENDER_CONFIG names, else DefaultPath if it is there, else the
// environment alone. It also returns the path of the file read, "" if none.
func Read(path string, environ []string) (Config, string, error) {
	return ReadWith(os.ReadFile, path, environ)
}

// ReadWith is Read with a reader of files in place of the operating system.
func ReadWith(readFile func(path string) ([]byte, error), path string, environ []string) (Config, string, error) {
	env := environment(environ)
	explicit := path != ""
	if !explicit {
		path = env["PGTENDER_CONFIG"]
		explicit = path != ""
	}
	if !explicit {
		path = DefaultPath
	}
	c := Default()
	content, err := readFile(path)
	switch {
	case err == nil:
		if err := decode(content, &c); err != nil {
			return Config{}, path, fmt.Errorf("read %s: %w", path, err)
		}
	case errors.Is(err, fs.ErrNotExist) && !explicit:
		path = ""
	default:
		return Config{}, path, fmt.Errorf("read configuration: %w", err)
	}
	if err := overlay(&c, env); err != nil {
		return Config{}, path, err
	}
	if err := c.Validate(); err != nil {
		if path != "" {
			err = fmt.Errorf("%s: %w", path, err)
		}
		return Config{}, path, err
	}
	return c, path, nil
}

func decode(content []byte, c *Config) error {
	var any any
	if yaml.Unmarshal(content, &any) == nil && any == nil {
		return nil // nothing but comments; decoding null would clear the defaults
	}
	err := yaml.NewDecoder(bytes.NewReader(content), yaml.Strict()).Decode(c)
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	return errors.New(strings.TrimSpace(yaml.FormatError(err, false, true)))
}

// reserved are variables that start with PGTENDER_ but are no setting.
var reserved = []string{"PGTENDER_CONFIG", "PGTENDER_CACHE", "PGTENDER_LOG_LEVEL"}

func environment(environ []string) map[string]string {
	env := make(map[string]string)
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(k, "PGTENDER_") {
			env[k] = v
		}
	}
	return env
}

// overlay sets every field that the environment names. A variable that looks
// like a setting of ours but is none is an error, as a key in the file is.
func overlay(c *Config, env map[string]string) error {
	known := make(map[string]bool)
	if err := overlayStruct(reflect.ValueOf(c).Elem(), "PGTENDER", env, known); err != nil {
		return err
	}
	for k := range env {
		if !known[k] && !slices.Contains(reserved, k) && !strings.HasPrefix(k, "PGTENDER_PG") {
			return fmt.Errorf("environment variable %s names no setting", k)
		}
	}
	return nil
}

func overlayStruct(v reflect.Value, prefix string, env map[string]string, known map[string]bool) error {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := prefix + "_" + strings.ToUpper(f.Tag.Get("yaml"))
		fv := v.Field(i)
		if fv.Kind() == reflect.Struct {
			if err := overlayStruct(fv, name, env, known); err != nil {
				return err
			}
			continue
		}
		known[name] = true
		text, ok := env[name]
		if !ok {
			continue
		}
		if err := set(fv, text); err != nil {
			return fmt.Errorf("environment variable %s: %w", name, err)
		}
	}
	return nil
}

func set(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(interface{ UnmarshalText([]byte) error }); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(b)
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		if err := set(p.Elem(), text); err != nil {
			return err
		}
		v.Set(p)
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.String {
			return fmt.Errorf("it can be set in the configuration file only")
		}
		v.Set(reflect.Zero(v.Type()))
		for item := range strings.SplitSeq(text, ",") {
			v.Set(reflect.Append(v, reflect.ValueOf(strings.TrimSpace(item))))
		}
	default:
		panic("internal error: setting of unhandled kind " + v.Kind().String())
	}
	return nil
}
