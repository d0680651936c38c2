package fanfare

// Setting names a setting of the hub, such as max-streams: the limit or the list that an error is
// about. It is the name in a settings file; a program that hosts the hub may show another one
// (server.Options.SettingName).
type Setting string

// The settings that errors, log records and metrics name.
const (
	SettingAllowedHost               Setting = "allowed-host"
	SettingBodyTimeout               Setting = "body-timeout"
	SettingCORSOrigin                Setting = "cors-origin"
	SettingIngestIdle                Setting = "ingest-idle"
	SettingJWTAudience               Setting = "jwt-audience"
	SettingMaxEventBytes             Setting = "max-event-bytes"
	SettingMaxInflightBytes          Setting = "max-inflight-bytes"
	SettingMaxLatestBytes            Setting = "max-latest-bytes"
	SettingMaxLogBytes               Setting = "max-log-bytes"
	SettingMaxNewStreams             Setting = "max-new-streams"
	SettingMaxRefusalsHeld           Setting = "max-refusals-held"
	SettingMaxRefusalsHeldPerAddress Setting = "max-refusals-held-per-address"
	SettingMaxReplays                Setting = "max-replays"
	SettingMaxRequestBytes           Setting = "max-request-bytes"
	SettingMaxRevocations            Setting = "max-revocations"
	SettingMaxScheduledBytes         Setting = "max-scheduled-bytes"
	SettingMaxStreams                Setting = "max-streams"
	SettingMaxStreamsPerAddress      Setting = "max-streams-per-address"
	SettingMaxStreamsPerChannel      Setting = "max-streams-per-channel"
	SettingMaxStreamsPerSubject      Setting = "max-streams-per-subject"
	SettingMinFreeBytes              Setting = "min-free-bytes"
	SettingPublishBytesRate          Setting = "publish-bytes-rate"
	SettingPublishRate               Setting = "publish-rate"
	SettingStoreResumeFor            Setting = "store-resume-for"
)

// Settings returns all of them.
func Settings() []Setting {
	return []Setting{
		SettingAllowedHost, SettingBodyTimeout, SettingCORSOrigin, SettingIngestIdle, SettingJWTAudience,
		SettingMaxEventBytes, SettingMaxInflightBytes, SettingMaxLatestBytes, SettingMaxLogBytes,
		SettingMaxNewStreams, SettingMaxRefusalsHeld, SettingMaxRefusalsHeldPerAddress, SettingMaxReplays,
		SettingMaxRequestBytes, SettingMaxRevocations, SettingMaxScheduledBytes, SettingMaxStreams,
		SettingMaxStreamsPerAddress, SettingMaxStreamsPerChannel, SettingMaxStreamsPerSubject,
		SettingMinFreeBytes, SettingPublishBytesRate, SettingPublishRate, SettingStoreResumeFor,
	}
}
