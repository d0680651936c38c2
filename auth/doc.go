// Package auth finds out who sends a request and what they may do: it turns JSON Web Tokens (RFC
// 7519), API keys and tickets into a fanfare.Principal. It decides nothing by itself: the code that
// serves a request asks the principal.
//
// An Authenticator watches its key files, keeps a JWKS fresh, and remembers tokens that it has
// verified, so that the next request with the same token costs a look into a map.
package auth
