// Package auth identifies the caller of a request and its rights: it turns JSON Web Tokens (RFC
// 7519), API keys and tickets into a fanfare.Principal. It does not decide about requests: the code
// that serves a request asks the principal.
//
// An Authenticator watches its key files, keeps a JWKS fresh, and remembers tokens that it has
// verified, so that the next request with the same token costs one map lookup.
package auth
