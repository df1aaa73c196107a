package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/pgtender/pgtender/backup/storage"
)

// probePrefix begins the keys that ConditionalPut tries on.
const probePrefix = "pgtender-probe/"

// ConditionalPut creates an object and tries to create it again, with one
// request and as an upload in parts: servers exist that know the condition on
// the former only.
func (s *Store) ConditionalPut(ctx context.Context) (atomic bool, err error) {
	if s.opts.LookFirst {
		return false, storage.ContextError(ctx)
	}
	var random [8]byte
	rand.Read(random[:])
	key := probePrefix + hex.EncodeToString(random[:])
	first := []byte("first")
	if err := storage.PutBytes(ctx, s, key, first, storage.PutOptions{IfAbsent: true}); err != nil {
		if isNotImplemented(err) {
			return false, nil
		}
		return false, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, s.Delete(ctx, key))
	}()
	again := put{s: s, key: key, src: &source{src: bytes.NewReader([]byte("again"))}, size: 5, token: key, ifNoneMatch: aws.String("*")}
	for _, try := range []func(context.Context) error{
		again.whole,
		func(ctx context.Context) error { err, _ := again.upload(ctx); return err },
	} {
		switch err := try(ctx); {
		case err == nil, isNotImplemented(err):
			return false, nil
		case !errors.Is(err, storage.ErrExists):
			return false, err
		}
	}
	return true, nil
}

func isNotImplemented(err error) bool {
	code, status := answer(err)
	return code == "NotImplemented" || status == 501
}
