"""What differs between the configurations of Dovecot 2.3 and 2.4, in the syntax of the Dovecot that is installed."""
import functools
import os
import subprocess


@functools.cache
def is_24():
    """2.4 or later."""
    version = subprocess.run(["dovecot", "--version"], env={"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
                             capture_output=True, text=True, check=True).stdout
    return not version.startswith("2.3.")


OPTIONS_24 = {"INDEX": "mail_index_path", "CONTROL": "mail_control_path", "LAYOUT": "mailbox_list_layout"}


def environment(variables):
    """What its processes have in their environment."""
    if is_24():
        return "import_environment {\n" + "".join(f"  {key} = {value}\n" for key, value in variables.items()) + "}\n"
    return f"import_environment = {' '.join(f'{key}={value}' for key, value in variables.items())}\n"


def location_24(location):
    """The settings that say what 2.3 says in one, "maildir:~/Maildir:LAYOUT=fs"."""
    driver, path, *options = location.split(":")
    settings = {"mail_driver": driver, "mail_path": path}
    if driver == "maildir":
        settings["mailbox_list_layout"] = "maildir++"
    for option in options:
        key, value = option.split("=")
        settings[OPTIONS_24[key]] = value
    return "".join(f"{key} = {value}\n" for key, value in settings.items())


def beginning(location, uid, mount):
    """To begin a configuration with. Any user with any password has mail, at mount/<domain>/<name>. mmap_disable: as the README
    asks for on a mount."""
    return beginning_24(location, uid, mount) if is_24() else beginning_23(location, uid, mount)


def beginning_24(location, uid, mount):
    return f"""dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
auth_allow_cleartext = yes
mmap_disable = yes
{location_24(location)}
passdb static {{
  fields {{
    nopassword = yes
  }}
}}
userdb static {{
  fields {{
    uid = {uid}
    gid = {uid}
    home = {mount}/%{{user | domain}}/%{{user | username}}
  }}
}}
"""


def beginning_23(location, uid, mount):
    return f"""disable_plaintext_auth = no
mmap_disable = yes
mail_location = {location}
passdb {{
  driver = static
  args = nopassword=yes
}}
userdb {{
  driver = static
  args = uid={uid} gid={uid} home={mount}/%d/%n
}}
"""
