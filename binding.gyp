# The native addon: every native/**/*.cc but tests and benches, so that a new file is found by itself
# (after `node-gyp configure`, which scripts/setup runs when the list of files changes). Without libfuse 3
# the addon does without native/fuse, and the transport that needs it says so.
#
# Node's and node-addon-api's headers come as system headers: their warnings are not ours to fix,
# while ours are errors.
{
  'variables': {
    'fuse3%': '<!(${CXX:-g++} -DFUSE_USE_VERSION=35 -include fuse3/fuse_lowlevel.h -xc++ -E /dev/null >/dev/null 2>&1 && echo yes || echo no)',
  },
  'targets': [
    {
      'target_name': 'ckptfs',
      'sources': [
        '<!@(node -p "require(\'fs\').readdirSync(\'native\', { recursive: true }).filter((f) => f.endsWith(\'.cc\') && !/^(test|fuzz|bench)\\//.test(f)).sort().map((f) => \'native/\' + f).join(\' \')")',
      ],
      'include_dirs': ['native'],
      'defines': ['NAPI_VERSION=9', 'NAPI_CPP_EXCEPTIONS', 'NODE_ADDON_API_DISABLE_DEPRECATED'],
      'cflags!': ['-fno-exceptions', '-Wno-unused-parameter'],
      'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17'],
      'cflags_cc': [
        '-std=c++20',
        '-O2',
        '-g',
        '-fexceptions',
        '-Wall',
        '-Wextra',
        '-Werror',
        '-pthread',
        '-isystem', '<(node_root_dir)/include/node',
        '-isystem', '<!(node -p "path.dirname(require.resolve(\'node-addon-api\'))")',
      ],
      'libraries': ['-llz4', '-lzstd', '-lxxhash', '-pthread'],
      'conditions': [
        ['fuse3=="yes"', {
          'defines': ['CKPTFS_FUSE3'],
          'libraries': ['-lfuse3'],
        }, {
          'sources/': [['exclude', '^native/fuse/'], ['exclude', '^native/binding/fuse_']],
        }],
      ],
    },
  ],
}
