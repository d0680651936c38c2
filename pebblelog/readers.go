package pebblelog

// readers read what the catalog shows. Their methods may be called from any goroutine while the
// session is held open (acquire). They have many methods, because each question of fanfare.Log is
// answered in two ways: by the indexes of few channels, and by a scan.
type readers struct {
	*catalog
	pieces pieces // fixed
}
