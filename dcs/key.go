package dcs

import (
	"fmt"
	"strings"
)

// Below gives the string that all keys below prefix start with, and no others:
// "service/batman" becomes "service/batman/". Slashes at the end of prefix do
// not matter. Implementations use it for Read and Watch.
func Below(prefix string) (string, error) {
	prefix = strings.TrimRight(prefix, "/")
	if err := CheckKey(prefix); err != nil {
		return "", err
	}
	return prefix + "/", nil
}

// CheckKey refuses what is not a key: parts joined by single slashes, none of
// them empty, "." or "..". Consul and ZooKeeper address keys by URL or path,
// where such parts would mean another key.
func CheckKey(key string) error {
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsRune(part, 0) {
			return fmt.Errorf("invalid DCS key %q", key)
		}
	}
	return nil
}
