package pebblelog

// readers read what the catalog shows. Their methods may be called from any goroutine while the
// session is held open (acquire).
type readers struct {
	*catalog
	pieces pieces // fixed
}
