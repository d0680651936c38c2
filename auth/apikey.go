package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/fleet"
	"github.com/fanfare-hub/fanfare/internal/spell"
)

// keyPrefix begins every API key, so that people and scanners recognise one.
const keyPrefix = "fk_"

// keyIDPrefix begins the TokenID of principals that came with an API key.
const keyIDPrefix = "key-"

// APIKey is the record that the hub keeps of a back end's key: not the key, but its hash. The key
// has 256 random bits, so one round of SHA-256 is as good as a slow hash, which is for passwords
// that can be guessed.
type APIKey struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"` // the principal's subject
	Hash    string    `json:"hash"` // sha256:HEX of the whole key
	Created time.Time `json:"created"`

	Publish   []string `json:"publish,omitempty"` // patterns
	Subscribe []string `json:"subscribe,omitempty"`
	Presence  []string `json:"presence,omitempty"`
	Ack       []string `json:"ack,omitempty"`
	Admin     []string `json:"admin,omitempty"`
	// stores/S/pcs/P, in which S and P may be `*` for a fleet that shares the key
	Device string `json:"device,omitempty"`
}

// CreateAPIKey makes a key for k's Name and grants. Only this call returns text, which the bearer
// sends.
func CreateAPIKey(k APIKey) (text string, made APIKey, err error) {
	var id [9]byte
	var secret [32]byte
	_, _ = rand.Read(id[:]) // never fails
	_, _ = rand.Read(secret[:])
	k.ID = hex.EncodeToString(id[:])
	text = keyPrefix + k.ID + "_" + base64.RawURLEncoding.EncodeToString(secret[:])
	k.Hash = hashKey(text)
	k.Created = time.Now().UTC().Truncate(time.Second)
	_, err = k.ready()
	return text, k, err
}

func hashKey(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// keyMembers are the members of an API key's line, spelt exactly so.
var keyMembers = []string{"id", "name", "hash", "created", "publish", "subscribe", "presence", "ack", "admin", "device"}

// ParseAPIKey reads the line that `fanfare key create` prints for the settings: one JSON object,
// each member known and given once. Its errors show names of members and no value.
func ParseAPIKey(line string) (k APIKey, err error) {
	if err := checkMembers(line, keyMembers); err != nil {
		return k, err
	}
	if json.Unmarshal([]byte(line), &k) != nil {
		return k, errNotAKey
	}
	_, err = k.ready()
	return k, err
}

var errNotAKey = fanfare.Invalid("an API key must be the JSON object that `fanfare key create` prints")

// checkMembers refuses lines that encoding/json would accept: with names in another case, with a
// member given twice, with text behind the object. Each may be a right that the writer believes to
// have given, or taken away.
func checkMembers(line string, known []string) error {
	d := json.NewDecoder(strings.NewReader(line))
	if t, err := d.Token(); err != nil || t != json.Delim('{') || !utf8.ValidString(line) {
		return errNotAKey
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		name, isText := t.(string)
		if err != nil || !isText {
			return errNotAKey
		}
		if err := unknownMember(name, known); err != nil {
			return fanfare.Invalid("API key: %s", detail(err))
		}
		if seen[name] {
			return fanfare.Invalid("API key: member %q is given twice", name)
		}
		seen[name] = true
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return errNotAKey
		}
	}
	if _, err := d.Token(); err != nil { // the object's end
		return errNotAKey
	}
	if _, err := d.Token(); err != io.EOF {
		return fanfare.Invalid("an API key is one JSON object a line: something follows the object")
	}
	return nil
}

// unknownMember returns an error that names a member when it is none of those known.
func unknownMember(name string, known []string) error {
	if slices.Contains(known, name) {
		return nil
	}
	shown := name[:min(len(name), 64)]
	if near := spell.Nearest(name, known...); near != "" {
		return fanfare.Invalid("member %q is not known: did you mean %q?", shown, near)
	}
	return fanfare.Invalid("member %q is not known: the members are %s", shown, strings.Join(known, ", "))
}

// readyKey is an API key with its hash decoded and its principal made.
type readyKey struct {
	hash      [sha256.Size]byte
	principal *fanfare.Principal
}

func (k APIKey) ready() (r readyKey, err error) {
	text, ok := strings.CutPrefix(k.Hash, "sha256:")
	sum, herr := hex.DecodeString(text)
	if !ok || herr != nil || len(sum) != sha256.Size || k.ID == "" {
		return r, fanfare.Invalid("API key %q: want an id, and a hash such as sha256:… of 64 digits", k.Name)
	}
	copy(r.hash[:], sum)
	if k.Name == "" || len(k.Name) > 128 {
		return r, fanfare.Invalid("API key %q: want a name of 1 to 128 bytes", k.ID)
	}
	p := &fanfare.Principal{Subject: k.Name, Realm: "key", TokenID: keyIDPrefix + k.ID, IssuedAt: k.Created,
		Grants: fanfare.Grants{}}
	for action, texts := range map[fanfare.Action][]string{
		fanfare.ActionPublish: k.Publish, fanfare.ActionSubscribe: k.Subscribe, fanfare.ActionPresence: k.Presence,
		fanfare.ActionAck: k.Ack, fanfare.ActionAdmin: k.Admin,
	} {
		for _, text := range texts {
			pattern, err := fanfare.ParsePattern(text)
			if err != nil {
				return r, fanfare.Invalid("API key %q, %s: %s", k.Name, action, detail(err))
			}
			p.Grants[action] = append(p.Grants[action], pattern)
		}
	}
	if k.Device != "" {
		own, ok := fleet.ParseDevice(k.Device)
		if !ok {
			return r, fanfare.Invalid("API key %q, device: want stores/S/pcs/P, where S and P may be *", k.Name)
		}
		p.Self = own
	}
	r.principal = p
	return r, nil
}

// verifyAPIKey finds a key by its id, and compares the hash of all of it in constant time.
func (a *Authenticator) verifyAPIKey(token string) (*fanfare.Principal, error) {
	id, _, ok := strings.Cut(strings.TrimPrefix(token, keyPrefix), "_")
	known, there := a.state.Load().apiKeys[id]
	sum := sha256.Sum256([]byte(token))
	if !ok || subtle.ConstantTimeCompare(sum[:], known.hash[:]) != 1 || !there {
		return nil, unauthenticated(fanfare.ReasonBadToken, "the API key is not known, or was revoked", nil)
	}
	return known.principal, nil
}

// ReadAPIKeys reads a file of keys: one JSON object a line.
func ReadAPIKeys(file string) ([]APIKey, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var keys []APIKey
	for i, line := range bytes.Split(b, []byte("\n")) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		k, err := ParseAPIKey(string(line))
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", file, i+1, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// WriteAPIKeys replaces a file of keys, all at once, readable by its owner alone.
func WriteAPIKeys(file string, keys []APIKey) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, k := range keys {
		if err := enc.Encode(k); err != nil {
			return err
		}
	}
	mode := os.FileMode(0o600)
	if old, err := os.Stat(file); err == nil {
		mode = old.Mode().Perm()
	}
	temp, err := os.CreateTemp(filepath.Dir(file), ".keys-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // after the rename there is nothing to remove
	_, err = temp.Write(b.Bytes())
	if err == nil {
		err = temp.Chmod(mode)
	}
	if err == nil {
		err = temp.Sync()
	}
	if cerr := temp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	return err
}
