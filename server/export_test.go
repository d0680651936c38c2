package server

import "github.com/fanfare-hub/fanfare/internal/adminapi"

// WrapRevocations has what operators revoke pass through f, which may let something happen in between.
func (s *Server) WrapRevocations(f func(adminapi.Revocations) adminapi.Revocations) {
	s.admin.Revocations = f(s.admin.Revocations)
}
