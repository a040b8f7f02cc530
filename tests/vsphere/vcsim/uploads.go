package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// receive takes an upload, as the simulator would, but looks at it.
func receive(w http.ResponseWriter, r *http.Request) {
	now, round := behaviour(), currentRound()
	digest := sha256.New()
	upload := Upload{
		Name: filepath.Base(r.URL.Path), Method: r.Method, Type: r.Header.Get("Content-Type"),
		Host: r.Host, Promised: r.ContentLength,
	}
	buffer := make([]byte, 32*1024)
	for {
		n, err := r.Body.Read(buffer)
		digest.Write(buffer[:n])
		upload.Size += int64(n)
		if now.BytesPerSecond > 0 {
			time.Sleep(time.Duration(float64(n) / float64(now.BytesPerSecond) * float64(time.Second)))
		}
		if round != currentRound() {
			cut(w)
			return
		}
		if stop := trouble(w, now, upload.Size); stop {
			keep(upload, digest.Sum(nil), false)
			return
		}
		if err != nil {
			keep(upload, digest.Sum(nil), err == io.EOF)
			break
		}
	}
	// The simulator's own handler decides whether lease and file are known.
	r.Body = io.NopCloser(bytes.NewReader(nil))
	simulator.ServeNFC(w, r)
}

func currentRound() int {
	seen.Lock()
	defer seen.Unlock()
	return seen.round
}

func keep(upload Upload, digest []byte, whole bool) {
	upload.Sha256, upload.Whole = hex.EncodeToString(digest), whole
	seen.Lock()
	seen.uploads = append(seen.uploads, upload)
	seen.Unlock()
}

func reached(limit, size int64) bool { return limit > 0 && size >= limit }

func trouble(w http.ResponseWriter, now Behaviour, size int64) bool {
	switch {
	case reached(now.ExitAfter, size):
		os.Exit(0)
	case reached(now.DropAfter, size):
		seen.Lock()
		seen.downUntil = time.Now().Add(time.Duration(now.DownMillis) * time.Millisecond)
		seen.Unlock()
		cut(w)
		return true
	case reached(now.FullAfter, size):
		end(&types.NoDiskSpace{}, "There is not enough space on the datastore.")
		http.Error(w, "No space left on device", http.StatusInternalServerError)
		return true
	case reached(now.RefuseAfter, size):
		http.Error(w, "write failed", http.StatusInternalServerError)
		return true
	case reached(now.AbortAfter, size):
		seen.Lock()
		done := seen.behaviour.AbortAfter == 0
		seen.behaviour.AbortAfter = 0
		seen.Unlock()
		if !done {
			end(&types.RequestCanceled{}, "The task was canceled by a user.")
		}
	}
	return false
}
