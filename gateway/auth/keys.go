package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

const (
	maxKeys   = 100
	minRSA    = 2048 // bits
	maxRSA    = 8192
	maxSource = 256 << 10 // bytes of a JWKS or a PEM file
)

// key verifies the tokens of one issuer, by one algorithm.
type key struct {
	issuer   string
	id       string // "" if it has none: then it verifies tokens whatever their key id
	alg      string
	material any // as the library wants it for alg
}

// keyring is every key in use. Immutable.
//
// Keys are found by issuer and id together: one issuer must not be able to sign for another by choosing the id of its key.
type keyring struct {
	byIssuer map[string][]*key
	count    int
}

func newKeyring(lists ...[]*key) *keyring {
	r := &keyring{byIssuer: make(map[string][]*key)}
	for _, list := range lists {
		for _, k := range list {
			r.byIssuer[k.issuer] = append(r.byIssuer[k.issuer], k)
			r.count++
		}
	}
	return r
}

// find returns the key for a token: the one of its key id, else one that has no id. A token without an id is verified with
// the only key there is for its algorithm.
func (r *keyring) find(issuer, id, alg string) *key {
	var unnamed, only *key
	n := 0
	for _, k := range r.byIssuer[issuer] {
		if k.alg != alg {
			continue
		}
		if id != "" && k.id == id {
			return k
		}
		if k.id == "" && unnamed == nil {
			unnamed = k
		}
		only = k
		n++
	}
	switch {
	case unnamed != nil:
		return unnamed
	case id == "" && n == 1:
		return only
	}
	return nil
}

// parseKeys reads a JWKS or PEM public keys. secrets tells whether keys of HS256 may be among them; private whether there
// is something in it that must not be read by others.
func parseKeys(issuer string, data []byte, secrets bool) (keys []*key, private bool, err error) {
	if len(data) > maxSource {
		return nil, false, fmt.Errorf("larger than %d bytes", maxSource)
	}
	if text := bytes.TrimSpace(data); len(text) > 0 && text[0] == '{' {
		keys, private, err = parseJWKS(issuer, text, secrets)
	} else {
		keys, err = parsePEM(issuer, data)
	}
	switch {
	case err != nil:
		return nil, false, err
	case len(keys) == 0:
		return nil, false, errors.New("has no key for RS256, ES256, EdDSA or HS256")
	}
	return keys, private, nil
}

func parsePEM(issuer string, data []byte) (keys []*key, err error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return keys, nil
		}
		var public any
		switch block.Type {
		case "PUBLIC KEY":
			public, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			public, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			var cert *x509.Certificate
			if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
				public = cert.PublicKey
			}
		default:
			return nil, fmt.Errorf("has a PEM block of type %.32q: only public keys belong here", block.Type)
		}
		if err != nil {
			return nil, errors.New("has a PEM block that is no public key")
		}
		k, err := publicKey(public)
		if err != nil {
			return nil, err
		}
		k.issuer = issuer
		if slices.ContainsFunc(keys, func(o *key) bool { return o.alg == k.alg }) {
			return nil, fmt.Errorf("has two keys for %s: PEM gives them no ids to tell them apart; use a JWKS", k.alg)
		}
		keys = append(keys, k)
	}
}

// publicKey gives a public key the one algorithm that it is for.
func publicKey(public any) (*key, error) {
	switch p := public.(type) {
	case *rsa.PublicKey:
		if n := p.N.BitLen(); n < minRSA || n > maxRSA {
			return nil, fmt.Errorf("RSA key of %d bits: want %d to %d", n, minRSA, maxRSA)
		}
		if p.E < 3 || p.E%2 == 0 {
			return nil, errors.New("RSA key with a bad exponent")
		}
		return &key{alg: "RS256", material: p}, nil
	case *ecdsa.PublicKey:
		if p.Curve != elliptic.P256() {
			return nil, errors.New("EC key of another curve than P-256")
		}
		return &key{alg: "ES256", material: p}, nil
	case ed25519.PublicKey:
		return &key{alg: "EdDSA", material: crypto.PublicKey(p)}, nil
	}
	return nil, fmt.Errorf("key of type %T: want RSA, P-256 or Ed25519", public)
}

// jwk is one key of a JWKS (RFC 7517).
type jwk struct {
	Kty, Kid, Alg, Use, Crv string
	KeyOps                  []string `json:"key_ops"`
	N, E, X, Y, K, D        string
}

// parseJWKS reads the keys that are for one of our algorithms and leaves the others out: issuers publish keys for other uses
// too.
func parseJWKS(issuer string, data []byte, secrets bool) (keys []*key, private bool, err error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, false, errors.New("is no JWKS")
	}
	if len(set.Keys) > maxKeys {
		return nil, false, fmt.Errorf("has %d keys, at most %d are allowed", len(set.Keys), maxKeys)
	}
	for _, raw := range set.Keys {
		var j jwk
		if json.Unmarshal(raw, &j) != nil {
			continue
		}
		if j.D != "" {
			return nil, false, errors.New("has a private key: only public keys belong here")
		}
		k, err := j.key(secrets)
		if err != nil {
			continue
		}
		private = private || k.alg == "HS256"
		k.issuer, k.id = issuer, j.Kid
		if slices.ContainsFunc(keys, func(o *key) bool { return o.id == k.id && o.alg == k.alg }) {
			return nil, false, fmt.Errorf("has two keys for %s with the id %.64q", k.alg, k.id)
		}
		keys = append(keys, k)
	}
	return keys, private, nil
}

var errOtherUse = errors.New("for another use")

func (j *jwk) key(secrets bool) (*key, error) {
	if j.Use != "" && j.Use != "sig" || len(j.Kid) > maxKeyID || len(j.KeyOps) > 0 && !slices.Contains(j.KeyOps, "verify") {
		return nil, errOtherUse
	}
	k, err := j.material(secrets)
	if err != nil {
		return nil, err
	}
	if j.Alg != "" && j.Alg != k.alg {
		return nil, errOtherUse
	}
	return k, nil
}

func (j *jwk) material(secrets bool) (*key, error) {
	decode := base64.RawURLEncoding.DecodeString
	switch {
	case j.Kty == "RSA":
		n, err1 := decode(j.N)
		e, err2 := decode(j.E)
		if err1 != nil || err2 != nil || len(e) > 4 {
			return nil, errOtherUse
		}
		return publicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())})
	case j.Kty == "EC" && j.Crv == "P-256":
		x, err1 := decode(j.X)
		y, err2 := decode(j.Y)
		if err1 != nil || err2 != nil || len(x) != 32 || len(y) != 32 {
			return nil, errOtherUse
		}
		p, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
		if err != nil {
			return nil, err
		}
		return publicKey(p)
	case j.Kty == "OKP" && j.Crv == "Ed25519":
		x, err := decode(j.X)
		if err != nil || len(x) != ed25519.PublicKeySize {
			return nil, errOtherUse
		}
		return publicKey(ed25519.PublicKey(x))
	case j.Kty == "oct" && secrets:
		secret, err := decode(j.K)
		if err != nil || len(secret) < minHMAC {
			return nil, errOtherUse
		}
		return &key{alg: "HS256", material: secret}, nil
	}
	return nil, errOtherUse
}
