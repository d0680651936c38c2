package server

import (
	_ "embed"
	"net/http"
	"strconv"
)

// openAPI describes the HTTP API (OpenAPI 3.1).
//
//go:embed openapi.yaml
var openAPI []byte

func openapi(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/yaml")
	h.Set("Content-Length", strconv.Itoa(len(openAPI)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(openAPI)
	}
}
