package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// tokenFile authenticates by a JSON file {token: {name, uid, groups, extra}} that tests may replace while we run.
// Replace it by a rename: a half-written file fails the requests that come at that moment.
type tokenFile struct {
	path string

	mutex    sync.Mutex
	modified time.Time
	users    map[string]*user.DefaultInfo
}

func (f *tokenFile) AuthenticateToken(_ context.Context, token string) (*authenticator.Response, bool, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if err := f.reload(); err != nil {
		return nil, false, fmt.Errorf("token file: %w", err)
	}
	known, ok := f.users[token]
	if !ok {
		return nil, false, nil
	}
	return &authenticator.Response{User: known}, true, nil
}

func (f *tokenFile) reload() error {
	info, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	if info.ModTime().Equal(f.modified) {
		return nil
	}
	content, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	users := map[string]*user.DefaultInfo{}
	if err := json.Unmarshal(content, &users); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.users, f.modified = users, info.ModTime()
	return nil
}
