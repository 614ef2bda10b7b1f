package oauth

import "strings"

// This file is the table of what to do about a provider's refusal.

// advised is a row: the first whose code and words are in the refusal gives the advice. In it %NAME, %CLIENT and %USER
// stand for the account's.
type advised struct {
	code   string // of RFC 6749 section 5.2, or Entra's; "" for all
	words  string // in lower case, a part of the description; "" for all
	of     Provider
	flow   Flow
	advice string
}

const (
	adviceLogIn = `the grant of %USER has ended or was revoked: run "relayctl oauth login %NAME"`
	adviceApp   = "check client_id and tenant_id of [smarthost.oauth2] against the application's overview page in the Entra " +
		"admin center"
	adviceSecret = "put the secret's value, not its ID, into client_secret_file: Entra admin center, App registrations, " +
		"the application, Certificates & secrets"
	adviceInteraction = `the tenant wants %USER to confirm the login (multi-factor or a policy): run "relayctl oauth login ` +
		`%NAME"; if that is refused too, the tenant's administrator must exempt the account`
	adviceDelegation = "the service account may not act for %USER: a Workspace administrator grants it under Security, API " +
		"controls, Domain-wide delegation, with its client ID and the scope https://mail.google.com/"
)

var adviceRows = []advised{
	// Entra: https://learn.microsoft.com/entra/identity-platform/reference-error-codes
	{code: "AADSTS7000222", advice: "the client secret of application %CLIENT has expired: make a new one in the Entra admin " +
		"center (App registrations, the application, Certificates & secrets), put its value into client_secret_file, set " +
		"secret_expires, and reload relayd"},
	{code: "AADSTS7000215", advice: "the client secret of application %CLIENT is wrong: " + adviceSecret},
	{code: "AADSTS7000218", advice: "Entra takes application %CLIENT for one with a secret: switch \"Allow public client " +
		"flows\" on (App registrations, the application, Authentication), or give client_secret_file"},
	{code: "AADSTS7000112", advice: "application %CLIENT is disabled in the tenant: its administrator enables it under " +
		"Enterprise applications"},
	{code: "AADSTS700027", advice: "Entra does not know the certificate of application %CLIENT: upload cert_file under App " +
		"registrations, the application, Certificates & secrets, Certificates"},
	{code: "AADSTS700024", advice: "Entra finds the client assertion out of its time: check this machine's clock"},
	{code: "AADSTS700016", advice: "the tenant has no application %CLIENT: " + adviceApp},
	{code: "AADSTS90002", advice: "there is no such tenant: " + adviceApp},
	{code: "AADSTS900021", advice: "there is no such tenant: " + adviceApp},
	{code: "AADSTS65001", flow: FlowClientCredentials, advice: "nobody has consented to application %CLIENT: an administrator " +
		"of the tenant grants consent under App registrations, the application, API permissions"},
	{code: "AADSTS65001", advice: "nobody has consented to application %CLIENT for %USER: an administrator of the tenant grants " +
		`consent under App registrations, the application, API permissions; then run "relayctl oauth login %NAME"`},
	{code: "AADSTS65004", advice: `consent was declined: run "relayctl oauth login %NAME" and accept`},
	{code: "AADSTS700082", advice: `the refresh token of %USER has expired, because it was not used for long: run "relayctl ` +
		`oauth login %NAME"`},
	{code: "AADSTS70043", advice: `a sign-in policy of the tenant has ended the grant of %USER: run "relayctl oauth login %NAME"`},
	{code: "AADSTS50173", advice: `the grant of %USER was revoked, mostly by a new password: run "relayctl oauth login %NAME"`},
	{code: "AADSTS50034", advice: "the tenant has no account %USER: check username and tenant_id"},
	{code: "AADSTS50053", advice: "the account %USER is locked: its administrator must unlock it"},
	{code: "AADSTS50055", advice: `the password of %USER has expired: set a new one, then run "relayctl oauth login %NAME"`},
	{code: "AADSTS50057", advice: "the account %USER is disabled: its administrator must enable it"},
	{code: "AADSTS50076", advice: adviceInteraction},
	{code: "AADSTS50079", advice: adviceInteraction},
	{code: "AADSTS50158", advice: adviceInteraction},
	{code: "AADSTS53003", advice: "a conditional access policy of the tenant refuses the login: its administrator must exempt the " +
		"account or this line's address"},
	{code: "AADSTS70011", advice: "the scope is not valid: delete scopes in [smarthost.oauth2], which has a default"},
	{code: "AADSTS1002012", advice: "the scope is not valid: delete scopes in [smarthost.oauth2], which has a default"},

	// Google
	{of: ProviderGoogle, code: "unauthorized_client", flow: FlowServiceAccount, advice: adviceDelegation},
	{of: ProviderGoogle, code: "access_denied", flow: FlowServiceAccount, advice: adviceDelegation},
	{of: ProviderGoogle, code: "invalid_grant", words: "invalid email or user id", advice: "Google knows no account %USER: check " +
		"username; it must be a mailbox of the Workspace that delegates to the service account"},
	{of: ProviderGoogle, code: "invalid_grant", words: "account not found", advice: "Google knows no such service account any " +
		"more: make a new key in the Google Cloud console and name its file in service_account_file"},
	{of: ProviderGoogle, code: "invalid_grant", words: "jwt", advice: "Google does not take the service account's signature: " +
		"check this machine's clock, and that the key has not been deleted in the Google Cloud console"},
	{of: ProviderGoogle, code: "invalid_grant", advice: adviceLogIn + `. If this happens every seven days, the Google project is ` +
		`in testing: publish it (Google Auth Platform, Audience, Publish app)`},
	{of: ProviderGoogle, code: "admin_policy_enforced", advice: "the Workspace's administrator must allow application %CLIENT " +
		"(Security, API controls, App access control)"},

	// RFC 6749 section 5.2, and what OpenID Connect adds
	{code: "invalid_grant", flow: FlowClientCredentials, advice: "the provider refuses application %CLIENT: check client_id and " +
		"its secret or certificate"},
	{code: "invalid_grant", flow: FlowServiceAccount, advice: "the provider refuses the service account for %USER: check username, " +
		"service_account_file and this machine's clock"},
	{code: "invalid_grant", advice: adviceLogIn},
	{code: "invalid_client", advice: "the provider does not know application %CLIENT by this secret: check client_id, and " +
		"client_secret_file or cert_file, in [smarthost.oauth2]"},
	{code: "interaction_required", advice: adviceInteraction},
	{code: "login_required", advice: adviceInteraction},
	{code: "consent_required", advice: `consent is missing: run "relayctl oauth login %NAME" and accept`},
	{code: "access_denied", advice: `consent was declined: run "relayctl oauth login %NAME" and accept`},
	{code: "authorization_declined", advice: `consent was declined: run "relayctl oauth login %NAME" and accept`}, // Entra
	{code: "expired_token", advice: `the code was not used in time: run "relayctl oauth login %NAME" again`},
	{code: "unauthorized_client", advice: "application %CLIENT may not use this flow: allow it at the provider, or choose another " +
		"flow in [smarthost.oauth2]"},
	{code: "unsupported_grant_type", advice: "the provider does not have this flow: choose another in [smarthost.oauth2]"},
	{code: "invalid_scope", advice: "the provider does not grant the scope: check scopes in [smarthost.oauth2], and the " +
		"application's permissions at the provider"},
	{advice: "the provider refuses a token for %USER: check [smarthost.oauth2] of %NAME"},
}

func (a *Account) advice(code, detail, description string) string {
	description = strings.ToLower(description)
	for _, r := range adviceRows {
		if r.code != "" && r.code != code && r.code != detail || r.flow != "" && r.flow != a.Flow ||
			r.of != ProviderOther && r.of != a.Provider || !strings.Contains(description, r.words) {
			continue
		}
		return a.words(r.advice)
	}
	return ""
}

// words fills in the account's names.
func (a *Account) words(s string) string {
	return strings.NewReplacer("%NAME", a.Name, "%CLIENT", a.client(), "%USER", a.Username).Replace(s)
}

// notLoggedIn is that an account that lives on a person's grant has none.
func (a *Account) notLoggedIn(why string) *GrantError {
	return &GrantError{Advice: a.words(why + `: run "relayctl oauth login %NAME"`)}
}
