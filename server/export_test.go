package server

import "github.com/fanfare-hub/fanfare/internal/adminapi"

// WrapRevocations has what operators revoke pass through f, which may let something happen in
// between.
func (s *Server) WrapRevocations(f func(adminapi.Revocations) adminapi.Revocations) {
	s.admin.Revocations = f(s.admin.Revocations)
}

// Routes returns "METHOD path" of all routes of the table.
func (s *Server) Routes() (list []string) {
	for _, rt := range s.routes() {
		for method, there := range map[string]bool{
			"GET": rt.get != nil || rt.getOf != nil, "POST": rt.takesPosts(),
			"DELETE": rt.del != nil || rt.delOf != nil,
		} {
			if there {
				list = append(list, method+" "+rt.path)
			}
		}
	}
	return list
}
