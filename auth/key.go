package auth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"github.com/fanfare-hub/fanfare"
)

// Algorithms are the signature algorithms that a key can be for.
var algorithms = []string{"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
	"ES384", "ES512", "EdDSA"}

// Key verifies tokens of one algorithm. A token's header cannot choose another (RFC 8725, section
// 3.1).
type Key struct {
	Algorithm string // such as RS256
	ID        string // kid; "" fits tokens with any, and without one
	File      string // PEM of a public key or certificate, or a secret for HS…; looked at again while running
	Text      string // the same, given directly
}

// ParseKey reads ALG[:KID]=FILE, such as RS256=/etc/fanfare/issuer.pem; instead of a file PEM text
// may stand there.
func ParseKey(text string) (Key, error) {
	k, rest, err := parseKey(text)
	if strings.HasPrefix(rest, "-----BEGIN ") {
		k.Text = rest
	} else {
		k.File = rest
	}
	return k, err
}

// ParseSecret reads ALG[:KID]=SECRET, for HS256, HS384 and HS512. Its errors do not show the
// secret.
func ParseSecret(text string) (Key, error) {
	k, rest, err := parseKey(text)
	k.Text = rest
	if err == nil && !strings.HasPrefix(k.Algorithm, "HS") {
		err = fanfare.Invalid("a secret is for HS256, HS384 or HS512, not for %s: that takes a public key", k.Algorithm)
	}
	return k, err
}

func parseKey(text string) (k Key, rest string, err error) {
	head, rest, ok := strings.Cut(text, "=")
	k.Algorithm, k.ID, _ = strings.Cut(head, ":")
	if !ok || rest == "" || !slices.Contains(algorithms, k.Algorithm) {
		return k, rest, fanfare.Invalid("want ALG[:KID]=KEY, the algorithm one of %s", strings.Join(algorithms, ", "))
	}
	return k, rest, nil
}

// verifier is a key that is ready for use: the algorithm, and the value that golang-jwt takes as
// its key.
type verifier struct {
	algorithm   string
	id          string
	key         jwt.VerificationKey
	fingerprint string // a hash of algorithm and key; does not depend on the kid
}

// ready adds the fingerprint.
func (v verifier) ready() (verifier, error) {
	b, secret := v.key.([]byte)
	if !secret {
		var err error
		if b, err = x509.MarshalPKIXPublicKey(v.key); err != nil {
			return v, err
		}
	}
	h := sha256.New()
	_, _ = io.WriteString(h, v.algorithm+"\x00")
	_, _ = h.Write(b)
	v.fingerprint = hex.EncodeToString(h.Sum(nil)[:16])
	return v, nil
}

// load reads the key.
func (k Key) load() (verifier, error) {
	b := []byte(k.Text)
	if k.File != "" {
		var err error
		if b, err = os.ReadFile(k.File); err != nil {
			if cause, ok := errors.AsType[*fs.PathError](err); ok && strings.HasPrefix(k.Algorithm, "HS") {
				// The setting may hold the secret itself in place of a file's name.
				return verifier{}, fanfare.Invalid("the file with the secret for %s cannot be read: %v (is it a "+
					"file's name?)", k.Algorithm, cause.Err)
			}
			return verifier{}, err
		}
	}
	v := verifier{algorithm: k.Algorithm, id: k.ID}
	name := k.File
	if name == "" {
		name = "the key in the settings"
	}
	if strings.HasPrefix(k.Algorithm, "HS") {
		secret := bytes.TrimRight(b, "\r\n")
		// RFC 7518, section 3.2: a key as long as the hash at least; shorter ones can be guessed.
		if need := map[string]int{"HS256": 32, "HS384": 48, "HS512": 64}[k.Algorithm]; len(secret) < need {
			return verifier{}, fanfare.Invalid("%s: a secret for %s must have at least %d bytes, this one has %d", name,
				k.Algorithm, need, len(secret))
		}
		if bytes.Contains(secret, []byte("-----BEGIN ")) {
			return verifier{}, fanfare.Invalid("%s: a public key is no secret: want RS…, PS…, ES… or EdDSA for it",
				name)
		}
		v.key = secret
		return v.ready()
	}
	public, err := publicKey(b)
	if err != nil {
		return verifier{}, fanfare.Invalid("%s: %v", name, err)
	}
	if !fits(k.Algorithm, public) {
		return verifier{}, fanfare.Invalid("%s: a %T cannot verify %s, or is too small for it", name, public,
			k.Algorithm)
	}
	v.key = public
	return v.ready()
}

// publicKey reads the first public key or certificate of a PEM text.
func publicKey(text []byte) (any, error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, fmt.Errorf("want a public key or a certificate in PEM (-----BEGIN PUBLIC KEY-----)")
		}
		switch block.Type {
		case "PUBLIC KEY":
			return x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			return x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			return cert.PublicKey, nil
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			return nil, fmt.Errorf("this is a private key: the hub needs the public one only (openssl pkey -pubout)")
		}
	}
}

// minRSABits is the smallest RSA key that is taken (RFC 7518, section 3.3).
const minRSABits = 2048

// fits tells whether a public key is for an algorithm.
func fits(algorithm string, public any) bool {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return (strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")) &&
			key.N.BitLen() >= minRSABits
	case *ecdsa.PublicKey:
		return algorithm == ecAlgorithm(key.Curve)
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}

func ecAlgorithm(curve elliptic.Curve) string {
	switch curve {
	case elliptic.P256():
		return "ES256"
	case elliptic.P384():
		return "ES384"
	case elliptic.P521():
		return "ES512"
	}
	return ""
}
