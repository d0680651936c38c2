package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/mail"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/fanfare-hub/fanfare/server"
)

// acmeSettings have certificates made and renewed by a certificate authority (RFC 8555).
type acmeSettings struct {
	AcmeDomain []string `name:"acme-domain" help:"Get a certificate for this name from an ACME authority, Let's Encrypt unless --acme-url names another; repeatable. With this setting you accept the authority's terms. Port 443 of the name must reach the hub." placeholder:"HOST"`
	AcmeEmail  string   `name:"acme-email" help:"The address for mail from the authority." placeholder:"ADDRESS"`
	AcmeURL    string   `name:"acme-url" help:"The URL of the authority's directory." placeholder:"URL"`
	AcmeRoots  string   `name:"acme-roots" help:"Certificates with which the authority's own is checked, PEM. Default: the system's." placeholder:"FILE"`
}

// check refuses names that no authority can give a certificate for, and URLs that no authority can
// have.
func (c *acmeSettings) check() error {
	if len(c.AcmeDomain) == 0 {
		if c.AcmeEmail+c.AcmeURL+c.AcmeRoots != "" {
			return errors.New("--acme-email, --acme-url and --acme-roots are of use with --acme-domain alone, " +
				"which is not set")
		}
		return nil
	}
	for _, name := range c.AcmeDomain {
		if err := server.CheckHosts([]string{name}, nil); err != nil || strings.Contains(name, ":") {
			return fmt.Errorf("--acme-domain %q: want the name of a host, such as push.example.com; there are "+
				"no wildcards", name)
		}
	}
	if c.AcmeEmail != "" {
		if a, err := mail.ParseAddress(c.AcmeEmail); err != nil || a.Address != c.AcmeEmail {
			return fmt.Errorf("--acme-email %q: want an address such as ops@example.com", c.AcmeEmail)
		}
	}
	if c.AcmeURL != "" { // RFC 8555, section 6.1
		if u, err := url.Parse(c.AcmeURL); err != nil || u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("--acme-url %q: want https://host/path, the authority's directory", shownURL(c.AcmeURL))
		}
	}
	return nil
}

// certificates are the certificates that the hub shows to TLS clients.
type certificates struct {
	config *tls.Config
	begin  func(ctx context.Context) error // when the listener is open
	reload func() error                    // nil: they renew themselves
	stop   func()
}

// newCertificates returns nil when TLS is not configured.
func newCertificates(c *settings, listener net.Listener, logger *slog.Logger) (*certificates, error) {
	switch {
	case c.TLSCert != "":
		return fileCertificates(c.TLSCert, c.TLSKey, logger)
	case len(c.AcmeDomain) > 0:
		return acmeCertificates(c, listener, logger)
	}
	return nil, nil
}

// tlsConfig is the configuration that both kinds share. Go chooses cipher suites well by itself.
func tlsConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
}

// certificateCheck is how often the files are looked at.
const certificateCheck = time.Second

// fileCertificates reads a certificate, and reads it again when a file changes. One that cannot be
// used is told of, and the one before stays.
func fileCertificates(cert, key string, logger *slog.Logger) (*certificates, error) {
	var current atomic.Pointer[tls.Certificate]
	load := func() error {
		pair, err := readCertificate(cert, key)
		if err == nil {
			current.Store(pair)
		}
		return err
	}
	seen := filesStamp(cert, key) // before reading, so that a change in between is read again
	if err := load(); err != nil {
		return nil, err
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(certificateCheck)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			now := filesStamp(cert, key)
			if now == seen {
				continue
			}
			seen = now
			if err := load(); err != nil {
				logger.Error("the certificate has changed and cannot be used; the one before stays",
					slog.Any("err", err))
				continue
			}
			logger.Info("the certificate was read again", slog.Time("until", current.Load().Leaf.NotAfter))
		}
	})
	config := tlsConfig()
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }
	return &certificates{
		config: config, begin: func(context.Context) error { return nil }, reload: load,
		stop: sync.OnceFunc(func() { close(stop); running.Wait() }),
	}, nil
}

func readCertificate(cert, key string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	return &pair, nil
}

// readRoots reads certificates to check others with.
func readRoots(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s has no certificate in PEM", file)
	}
	return pool, nil
}

// checkFiles reads the certificates that the settings name.
func (c *securitySettings) checkFiles() (err error) {
	if c.TLSCert != "" {
		_, err = readCertificate(c.TLSCert, c.TLSKey)
	}
	if err == nil && c.AcmeRoots != "" {
		if _, err = readRoots(c.AcmeRoots); err != nil {
			err = fmt.Errorf("--acme-roots: %w", err)
		}
	}
	return err
}

// filesStamp tells versions of files apart by their content: size and time may be the same.
func filesStamp(names ...string) (stamp [sha256.Size]byte) {
	h := sha256.New()
	for _, name := range names {
		b, err := os.ReadFile(name)
		fmt.Fprint(h, len(b), err == nil, ";")
		_, _ = h.Write(b)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// acmeCertificates has certmagic get certificates and renew them, into the folder acme of the data
// directory. Challenges are answered on the hub's own listener (TLS-ALPN-01, RFC 8737).
func acmeCertificates(c *settings, listener net.Listener, logger *slog.Logger) (*certificates, error) {
	host, portText, err := net.SplitHostPort(listener.Addr().String())
	port, perr := strconv.Atoi(portText)
	if err != nil || perr != nil {
		return nil, errors.New("--acme-domain needs a TCP address to listen on")
	}
	certLog := newZap(logger)
	template := certmagic.ACMEIssuer{
		CA: certmagic.LetsEncryptProductionCA, Email: c.AcmeEmail, Agreed: true, DisableHTTPChallenge: true,
		AltTLSALPNPort: port, ListenHost: host, Logger: certLog,
	}
	if c.AcmeURL != "" {
		template.CA = c.AcmeURL
	}
	if c.AcmeRoots != "" {
		if template.TrustedRoots, err = readRoots(c.AcmeRoots); err != nil {
			return nil, fmt.Errorf("--acme-roots: %w", err)
		}
	}
	var magic *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil }, Logger: certLog,
	})
	magic = certmagic.New(cache, certmagic.Config{
		Storage: &certmagic.FileStorage{Path: filepath.Join(c.Data, "acme")}, Logger: certLog,
		DefaultServerName: c.AcmeDomain[0],
		OnEvent: func(_ context.Context, event string, data map[string]any) error {
			switch event {
			case "cert_obtained":
				logger.Info("a certificate was obtained", slog.Any("name", data["identifier"]),
					slog.Any("renewal", data["renewal"]))
			case "cert_failed":
				logger.Error("no certificate could be obtained; it is tried again",
					slog.Any("name", data["identifier"]), slog.Any("err", data["error"]))
			}
			return nil
		},
	})
	magic.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(magic, template)}
	config := tlsConfig()
	config.NextProtos = append(config.NextProtos, "acme-tls/1")
	config.GetCertificate = magic.GetCertificate
	ctx, cancel := context.WithCancel(context.Background())
	return &certificates{
		config: config,
		begin:  func(context.Context) error { return magic.ManageAsync(ctx, c.AcmeDomain) },
		stop:   sync.OnceFunc(func() { cancel(); cache.Stop() }),
	}, nil
}
